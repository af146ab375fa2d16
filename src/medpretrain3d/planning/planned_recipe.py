"""A recipe with the options of a command line, as `plan` asks for it, and what it prints of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpretrain3d.command_line.composition import composed, flattened, nested, recipe_layers
from medpretrain3d.command_line.precheck import Precheck
from medpretrain3d.command_line.recipes import find_recipe, load_recipe, recipe_names
from medpretrain3d.errors import UserError
from medpretrain3d.planning.requirements import TFLOP_PER_S, Requirements, requirements
from medpretrain3d.planning.training_memory import GIB, RESERVE_GIB

STAGES = {"pretrain": "objective", "finetune": "detector"}
"""What the model of each stage is."""


@dataclass(frozen=True)
class PlannedRecipe:
    """A run that is to be."""

    stage: str
    config: Mapping[str, Any]

    @classmethod
    def read(cls, recipes: Sequence[str], options: Mapping[str, Any], stage: str | None = None) -> PlannedRecipe:
        """Compose recipes and options as the stage does.

        Args:
            recipes: paths or names; later ones lie on earlier ones.
            options: `model`, `data`, `trainer` and others, with keys that may have dots.
            stage: `pretrain` or `finetune`; by default the one that the recipes are for.

        Raises:
            UserError: a recipe does not exist, is wrong, or may be of either stage.
        """
        stage = stage or _stage_of(recipes)
        check, layers = Precheck(stage), []
        for recipe in recipes:
            path = find_recipe(recipe, stage)
            for layer in recipe_layers(path, stage):
                check.layer(layer, str(path))
                layers.append(layer)
        given = nested({key: _read(value) for key, value in flattened(options).items() if value != {}})
        for key, value in flattened(given).items():
            check.layer(nested({key: value}), f"--{key} {value}")
        return cls(stage, composed([*layers, given]))

    def requirements(self) -> Requirements:
        """Compute what the run needs; see `requirements`."""
        return requirements(self.config, self.stage)


def lines(needs: Requirements) -> Iterator[str]:
    """Return what is printed of a run."""
    memory, other = needs.memory, needs.other_memory
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "averaged weights": memory.averaged_weights,
        "gathered": memory.gathered,
        "activations": memory.activations,
    }
    shares = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)
    yield f"processes: {needs.num_processes}"
    yield f"precision: {needs.precision}"
    yield f"memory of each: {memory.gib:.1f} GiB ({shares}, device {RESERVE_GIB:.2f})"
    if other is not None:
        how = "without" if needs.is_checkpointed else "with"
        yield f"{how} checkpointing: {other.gib:.1f} GiB (activations {other.activations / GIB:.2f})"
    yield f"steps: {needs.num_steps:,}"
    flop = needs.step_flop * needs.num_steps
    yield f"arithmetic: {needs.step_flop / 1e12:.3g} TFLOP a step, {flop / 1e18:.3g} EFLOP in all"
    hours = ", ".join(f"{needs.hours(gpu):.3g} on {gpu}" for gpu in TFLOP_PER_S)
    yield f"hours: {hours} (computed from published times of ResEnc-L; nothing was measured)"
    yield f"read from the disk: {needs.read_mb_per_s('A100'):.0f} MB/s for each A100, uncompressed"


def _stage_of(recipes: Sequence[str]) -> str:
    """Return the stage whose recipes have these names, or whose model a file describes."""
    found = list(STAGES)
    for recipe in recipes:
        path = Path(recipe)
        if path.is_file():
            layers = [recipe_layers(path, stage) for stage in found if _is_readable(path, stage)]
            model = composed(layers[0]).get("model") if layers else None
            of = [stage for stage in found if isinstance(model, Mapping) and STAGES[stage] in model]
        else:
            of = [stage for stage in found if path.name.removesuffix(".yaml") in recipe_names(stage)]
        found = of or found
    if len(found) == 1:
        return found[0]
    if any(not Path(one).is_file() and not any(one in recipe_names(stage) for stage in STAGES) for one in recipes):
        find_recipe(next(one for one in recipes if not Path(one).is_file()), "pretrain")
    raise UserError(f"plan: {', '.join(recipes)} may be of either stage; give --stage pretrain or --stage finetune")


def _is_readable(path: Path, stage: str) -> bool:
    try:
        recipe_layers(path, stage)
    except UserError:  # whose base is one of the other stage
        return False
    return True


def _read(value: Any) -> Any:
    return load_recipe(value) if isinstance(value, str) else value
