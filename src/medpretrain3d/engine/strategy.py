"""Several processes, each with the whole network: what DDP is told where a name alone is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from medpretrain3d.engine.continuation import num_devices
from medpretrain3d.engine.ddp import PatientDDP
from medpretrain3d.engine.distributed import SHARDED

START_METHODS: dict[str, Literal["popen", "fork", "spawn"]] = {"ddp": "popen", "ddp_fork": "fork", "ddp_spawn": "spawn"}


def strategy_used(trainer: Mapping[str, Any]) -> Any:
    """Return the strategy of a trainer: in place of the name of DDP one that keeps no second copy of the gradients.

    `find_unused_parameters` stays off, for every parameter of every objective and detector gets a gradient at each
    step, and so does `static_graph`: drawn views and matched objects make the graph of a step another one.

    Args:
        trainer: options of the trainer.
    """
    name = trainer.get("strategy") or "auto"
    num = num_devices(trainer.get("devices"), trainer.get("accelerator")) * int(trainer.get("num_nodes") or 1)
    if name == "auto" and num > 1:
        name = "ddp"
    if name == SHARDED:
        from medpretrain3d.engine.sharding import ShardedDDP  # half a second of imports

        return ShardedDDP()
    if not isinstance(name, str) or name not in START_METHODS:
        return name
    return PatientDDP(gradient_as_bucket_view=True, start_method=START_METHODS[name])
