"""The help of a stage: this project's options, from the signatures, and those of the trainer that recipes use."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from medpretrain3d.command_line.precheck import CLASSES, parts_of
from medpretrain3d.command_line.recipes import recipe_names
from medpretrain3d.command_line.signatures import Signature, names_below, signatures
from medpretrain3d.command_line.trainer import OPTIONS
from medpretrain3d.values import wanted

TRAINER = {
    "max_steps": "steps of the optimizer",
    "val_check_interval": "steps between validations",
    "gradient_clip_val": "largest norm of all gradients together",
    "accumulate_grad_batches": "batches of one step",
    "devices": "processes of this machine, or auto",
    "num_nodes": "machines",
    "accelerator": "auto, cpu or gpu",
    "strategy": "auto, ddp, ...",
    "precision": "default: what is quickest on the device, measured on a CPU",
    "callbacks": "more of them, as a list of class_path and init_args",
}
OF_STAGE = {
    "finetune": "  --folds all                       train every fold, for one result of all (cross-validate)\n"
}
WIDTH = 120
COLUMN = 34


def stage_help(stage: str) -> str:
    """Return all of it, at most 120 characters wide."""
    intro = f"""\
usage: medpretrain3d {stage} [--config RECIPE] [--KEY VALUE ...]

Call the same command again to continue an interrupted run.

  --config RECIPE                   a YAML file, or a name below; repeatable, later ones lie on earlier ones
  --print_config                    print what will be used, and end
  --plugins PACKAGE                 packages of your own whose classes the recipe names
  --seed_everything N               of everything that is drawn (default 0)
  --trainer.help                    all options of Lightning's trainer
{OF_STAGE.get(stage, "")}  --KEY.help CLASS                  options of a class, as --model.backbone.help ResEnc

Where a class is wanted, --KEY CLASS chooses it and --KEY.OPTION VALUE sets its options.
"""
    names = textwrap.fill(", ".join(recipe_names(stage)), WIDTH, initial_indent="  ", subsequent_indent="  ")
    sections = [intro, f"recipes:\n{names}\n"]
    for key, name in CLASSES[stage].items():
        sections.append("\n".join([f"{key}:", *_options(key, signatures(name)[0])]) + "\n")
    options = [_line(f"trainer.{name}", _of(name), text) for name, text in TRAINER.items()]
    return "\n".join([*sections, "trainer, and further options by --trainer.help:", *options])


def stage_options(stage: str) -> dict[str, list[str]]:
    """Return the options of a stage without the trainer's, and the classes or texts that each may be."""
    found: dict[str, list[str]] = {}

    def add(key: str, signature: Signature) -> None:
        for name, hint in signature.parameters.items():
            parts = list(parts_of(hint))
            inner = [one for part in parts for one in signatures(part)]
            if inner and inner[0].is_dataclass:
                add(f"{key}.{name}", inner[0])
            else:
                found[f"--{key}.{name}"] = _classes(parts) or _texts_of(hint)

    for key, name in CLASSES[stage].items():
        add(key, signatures(name)[0])
    return found


def _classes(parts: Sequence[str]) -> list[str]:
    below = [one for part in parts for one in names_below(part)]
    return [one for one in below if one not in parts] or below


def _texts_of(hint: Any) -> list[str]:
    return [str(one) for one in get_args(hint) if isinstance(one, str)] if get_origin(hint) is Literal else []


def _options(key: str, signature: Signature) -> Iterator[str]:
    for name, hint in signature.parameters.items():
        parts = list(parts_of(hint))
        inner = [one for part in parts for one in signatures(part)]
        if inner and inner[0].is_dataclass:
            yield from _options(f"{key}.{name}", inner[0])
            continue
        default = signature.defaults.get(name)
        message = "" if default in ("None", None) or "(" in default else f"default {default}"
        message = "required" if default is None else message
        classes = _classes(parts)
        what = f"one of {', '.join(classes)}" if classes else wanted(hint) if hint is not None else ""
        text = signature.texts.get(name, "").partition(". ")[0].rstrip(".")
        yield _line(f"{key}.{name}", "; ".join(one for one in (text, what.removesuffix(" or null"), message) if one))


def _of(name: str) -> str:
    return wanted(OPTIONS[name]).removesuffix(" or null") if name in OPTIONS and name != "devices" else ""


def _line(key: str, *texts: str) -> str:
    text = "; ".join(one for one in reversed(texts) if one)
    option = f"  --{key}"
    gap = " " * COLUMN
    first = option.ljust(COLUMN) if len(option) < COLUMN - 1 else f"{option}\n{gap}"
    return first + textwrap.fill(text, WIDTH, initial_indent=gap, subsequent_indent=gap).lstrip()
