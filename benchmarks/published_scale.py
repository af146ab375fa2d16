"""What each recipe of published scale needs, computed from its network: `make bench ARGS=published_scale` prints it.

The numbers are those of `medpretrain3d plan --config RECIPE`; nothing was measured on a GPU here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.recipe_steps import CONFIGS
from medpretrain3d.planning.planned_recipe import PlannedRecipe
from medpretrain3d.planning.requirements import TFLOP_PER_S, Requirements

GPUS = "GB GPU", "GPU of"
"""What the line `Hardware:` of such a recipe says."""
HEADER = (
    "| recipe | GPUs | steps | TFLOP per step | EFLOP | hours A100 | hours H200 | GiB per GPU | checkpointed, GiB "
    "| read, MB/s per A100 |\n|---|---|---|---|---|---|---|---|---|---|"
)


class Scale(NamedTuple):
    """A recipe and what it needs."""

    recipe: str
    needs: Requirements

    def __str__(self) -> str:
        needs, hours = self.needs, [self.needs.hours(gpu) for gpu in TFLOP_PER_S]
        both = [needs.memory, needs.other_memory]
        kept, computed_again = reversed(both) if needs.is_checkpointed else both
        cells = [
            *(self.recipe, str(needs.num_processes), f"{needs.num_steps:,}", f"{needs.step_flop / 1e12:.2f}"),
            f"{needs.step_flop * needs.num_steps / 1e18:.2f}",
            *(f"{one:.0f}" if one >= 10 else f"{one:.1f}" for one in hours),
            *("" if one is None else f"{one.gib:.0f}" for one in (kept, computed_again)),
            f"{needs.read_mb_per_s('A100'):.0f}",
        ]
        return f"| {' | '.join(cells)} |"


def report() -> None:
    """Print a row for each recipe that asks for GPUs."""
    print(HEADER)
    for scale in scales():
        print(scale, flush=True)


def scales() -> Iterable[Scale]:
    """Compute recipe by recipe."""
    for path, stage in recipes_of_gpus():
        yield Scale(f"{stage}/{path.stem}", PlannedRecipe.read([str(path)], {}, stage).requirements())


def recipes_of_gpus() -> Iterable[tuple[Path, str]]:
    """Return the recipes that ask for GPUs, and their stages."""
    for stage in ("pretrain", "finetune"):
        for path in sorted((CONFIGS / stage).glob("*.yaml")):
            hardware = next(line for line in path.read_text(encoding="utf-8").splitlines() if "# Hardware:" in line)
            if any(word in hardware for word in GPUS):
                yield path, stage
