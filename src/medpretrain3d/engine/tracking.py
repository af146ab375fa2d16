"""Weights & Biases, with nothing leaving the machine that was not asked for."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_only

from medpretrain3d.engine.run import RunConfig
from medpretrain3d.engine.run_log import run_log
from medpretrain3d.engine.wandb_run import WandbRun
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RunMetadata

Mode = Literal["online", "offline", "disabled"]

_SPELLINGS: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
_NO = ("", "0", "false", "no", "off", "n", "f")
FLUSHED_EVERY_S = 2.0
"""Seconds of an offline run that a kill may take; wandb's own 15 are those of a whole short run."""


def wandb_mode(asked: Mode | Literal["auto"], is_typed: bool = False) -> Mode:
    """Return the wandb mode: the command line wins, then the environment, then the recipe, then what `wandb offline`
    noted for this folder. `disabled` holds wherever it is said, unless the command line says otherwise.

    `auto` is online when an API key is set and offline otherwise. `WANDB_MODE` is read in every spelling of wandb's,
    and `WANDB_DISABLED`, which wandb itself no longer reads, as its users mean it.

    Args:
        asked: what the configuration says.
        is_typed: the command line says it, and not a recipe.

    Raises:
        UserError: a mode that is none, since the user may have meant offline.
    """
    if asked == "disabled" or (is_typed and asked != "auto"):
        return asked
    if os.environ.get("WANDB_DISABLED", "").strip().lower() not in _NO:
        return "disabled"
    if os.environ.get("WANDB_MODE", "").strip():
        return _spelled(os.environ["WANDB_MODE"])
    if asked != "auto":
        return asked
    if not os.environ.get("WANDB_API_KEY"):
        return "offline"
    import wandb

    noted = wandb.Settings().read_system_settings().all()
    if noted.get("disabled", "").strip().lower() not in _NO and "mode" not in noted:
        return "disabled"
    return _spelled(noted.get("mode", "online"))


def _spelled(text: str) -> Mode:
    mode = _SPELLINGS.get(text.strip().lower())
    if mode is None:
        raise UserError(f"WANDB_MODE {text!r}: wanted one of {', '.join(_SPELLINGS)}; set it, or unset it")
    return mode


def sweep_run_id() -> str:
    """Return the id that an agent of a wandb sweep chose for this run; empty where there is none.

    `WANDB_RUN_ID` alone counts for nothing: one that a shell exports would make one run of all that are started there.
    """
    sweep, run = (os.environ.get(name, "").strip() for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID"))
    return run if sweep else ""


def wandb_logger(
    run: RunConfig,
    folder: Path,
    job_type: str,
    metadata: RunMetadata,
    typed: Collection[str] = (),
    config: Mapping[str, Any] | None = None,
    samples_per_step: int | None = None,
) -> WandbRun | None:
    """Return a logger whose run carries the names the study compares by; None when tracking is off.

    By default the run holds metrics, pictures, configuration and metadata, and how much of processor, GPU and memory is
    in use, but no host name, path, command line, code or package list (`run.share_machine=true` sends them). A run that
    is continued goes on under its `run_id`.

    Args:
        run: where the run belongs.
        folder: the run's folder; wandb's files go below it.
        job_type: `pretrain` or `finetune`.
        metadata: of the run, sent as the flat part of its configuration.
        typed: fields of `run` that the command line names; the environment wins over the others.
        config: every option of the run, sent as the nested part.
        samples_per_step: of the optimizer, over all processes.
    """
    mode = wandb_mode(run.wandb, "wandb" in typed)
    if mode == "disabled":
        return None
    if os.environ.get("WANDB_MODE", "").strip():
        os.environ["WANDB_MODE"] = mode  # wandb itself refuses other cases with a traceback of its own
    import wandb

    private: dict[str, Any] = {
        "x_disable_meta": True,
        "x_save_requirements": False,
        "disable_git": True,
        "disable_code": True,
        "disable_job_creation": True,
        "console": "off",
        "host": "redacted",
    }
    settings = wandb.Settings(
        init_timeout=30,
        silent=True,
        x_transaction_log_flush_interval=FLUSHED_EVERY_S,
        **({} if run.share_machine else private),
    )

    def chosen(field: str, variable: str) -> str | None:
        said = os.environ.get(variable, "").strip()
        own: str | None = getattr(run, field)
        return said if said and field not in typed else own

    about = (metadata.paradigm, metadata.method, metadata.corpus, metadata.backbone, metadata.dataset)
    asked = (chosen("tags", "WANDB_TAGS") or "").split(",")
    tags = dict.fromkeys(tag.strip()[:64] for tag in (*about, *asked) if tag and tag.strip())  # wandb takes 64 letters
    arguments: dict[str, Any] = {
        "entity": chosen("wandb_entity", "WANDB_ENTITY"),
        "project": chosen("wandb_project", "WANDB_PROJECT"),
        "group": chosen("group", "WANDB_RUN_GROUP"),
        "job_type": job_type,
        "name": chosen("name", "WANDB_NAME"),
        "id": sweep_run_id() or metadata.run_id,
        "resume": "allow",
        "tags": list(tags),
        "config": {**(config or {}), **metadata.known()},
        "settings": settings,
        "dir": str(folder),
    }
    return WandbRun(_open_run(mode, arguments), folder, samples_per_step, run.artifacts)


@rank_zero_only
def _open_run(mode: Mode, arguments: Mapping[str, Any]) -> Any:
    import wandb

    try:
        return wandb.init(mode=mode, **arguments)
    except Exception as error:  # wandb raises many kinds when the network is away; training goes on without it
        if mode == "offline":
            raise
        run_log.say(
            f"wandb: no connection ({type(error).__name__}); this run is kept offline, send it later with "
            "medpretrain3d study sync"
        )
        return wandb.init(mode="offline", **arguments)
