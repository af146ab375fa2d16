"""`finetune --folds all`: the command line of a fine-tuning run as that of `cross-validate`, which trains all folds."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from medpretrain3d.atomic import write_text
from medpretrain3d.command_line.composition import composed, flattened, nested, recipe_layers
from medpretrain3d.command_line.parser import respelled
from medpretrain3d.command_line.precheck import precheck
from medpretrain3d.command_line.recipes import BASE, expand_recipes, find_recipe, load_recipe, recipe_text
from medpretrain3d.errors import UserError
from medpretrain3d.home import from_home

OPTION = "--folds"
OF_EACH_FOLD = {
    "data.fold": "each fold gets its own",
    "data.test_on": "each fold is tested on what it holds out",
    "run.name": "a study names its runs",
    "run.group": "a study names the group of its runs",
    "run.arm": "a study names its arms",
    "run.restart": "folds that are done are reused and an interrupted one continues; to begin again remove {folder}, "
    "and call again",
}
"""Options that the runs of all folds cannot share, and why."""
AS_FOLDS_DO = {"data.test_on": "held_out", "run.restart": "false"}
"""Values of these that say what is done anyway."""
HEAD = "# What `{command}` was called with; `medpretrain3d cross-validate` trains the folds of it.\n"


def wants_folds(words: Sequence[str]) -> bool:
    """Return whether a command line of fine-tuning asks for folds."""
    return any(word.partition("=")[0] == OPTION for word in words)


def as_cross_validation(words: Sequence[str]) -> list[str]:
    """Return the words behind `medpretrain3d` that train every fold and make one result of them.

    Options of the recipe that were typed are kept in a recipe of their own, `<root>/<name>_folds/options/<name>.yaml`,
    which lies on the one that was named. Options without a dot (`--cores`, `--executor`) are those of `cross-validate`.

    Raises:
        UserError: no recipe, another value than `all`, an option that folds cannot share, or one that cannot be meant.
    """
    configs, options, others = _sorted(words)
    options = {key: text for key, text in options.items() if AS_FOLDS_DO.get(key) != text.lower()}
    if not configs:
        raise UserError(f"{OPTION} all: wanted --config RECIPE, whose folds are trained")
    recipes = [find_recipe(one, "finetune") for one in configs]
    precheck("finetune", expand_recipes([part for one in recipes for part in ("--config", str(one))], "finetune"))
    init_from, seed = options.pop("model.init_from", None), options.pop("seed_everything", None)
    layers = [layer for one in recipes for layer in recipe_layers(one, "finetune")]
    typed = nested({name: _value(name, text) for name, text in options.items()})
    root = from_home(str(flattened(composed([*layers, typed])).get("run.root") or "runs"))
    name = recipes[-1].stem
    for key, why in OF_EACH_FOLD.items():
        if key in options:
            reason = why.format(folder=root / f"{name}_folds")
            raise UserError(f"{OPTION} all and --{key} {options[key]}: {reason}; leave one of them out")
    recipe = recipes[0] if len(recipes) == 1 and not options else _kept(root, name, recipes, typed, words)
    result = [] if "-o" in others or "--out" in others else ["-o", str(root / f"{name}_folds" / "result")]
    start = [] if init_from is None else ["--init-from", init_from]
    seeds = [] if seed is None else ["--seed", seed]
    return ["cross-validate", "--config", str(recipe), *start, *seeds, *result, *others]


def _sorted(words: Sequence[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Return recipes, options with a dot or of the seed by name, and all other words."""
    configs: list[str] = []
    options: dict[str, str] = {}
    others: list[str] = []
    rest = iter(respelled([word for word in words if word != "fit"], ["--config", "--seed_everything", OPTION]))
    for word in rest:
        name, equals, value = word.partition("=")
        if name in ("--print_config", "--print-config"):
            raise UserError(f"{OPTION} all prints no configuration; leave {OPTION} out to see that of one fold")
        is_ours = name in ("--config", "-c", OPTION, "--seed_everything") or (name.startswith("--") and "." in name)
        if not is_ours:
            others.append(word)
            continue
        if not equals and (value := next(rest, "")) == "":
            raise UserError(f"{name}: wanted a value behind it")
        if name in ("--config", "-c"):
            configs.append(value)
        elif name == OPTION and value != "all":
            raise UserError(f"{OPTION} {value}: wanted all; one fold is trained with --data.fold {value}")
        elif name != OPTION:
            options[name[2:]] = value
    return configs, options, others


def _value(name: str, text: str) -> Any:
    try:
        return load_recipe(text)
    except yaml.YAMLError as error:
        raise UserError(f"--{name} {text}: is no value ({' '.join(str(error).split())}); mend it") from error


def _kept(root: Path, name: str, recipes: Sequence[Path], typed: dict[str, Any], words: Sequence[str]) -> Path:
    """Write the recipe that lies on those which were named and holds what was typed."""
    path = root / f"{name}_folds" / "options" / f"{name}.yaml"
    # A name from where the file really lies: `..` behind a link, as `runs` often is one, does not lead back over it.
    # The named recipe may be a link itself, beside whose name its own bases are.
    lies_in = path.parent.resolve()
    bases = {BASE: [os.path.relpath(one.parent.resolve() / one.name, lies_in) for one in recipes]}
    head = HEAD.format(command=shlex.join(["medpretrain3d", "finetune", *words]))
    own = recipe_text(typed) if typed else ""
    write_text(path, f"{head}{yaml.safe_dump(bases, default_flow_style=None)}{own}")
    precheck("finetune", expand_recipes(["--config", str(path)], "finetune"))
    return path
