"""A stage's program: how it begins, and what is said when it ends early."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable

from lightning.pytorch.utilities import rank_zero_only

from medpretrain3d.engine.checkpoint_files import num_steps_done
from medpretrain3d.engine.ending import ending
from medpretrain3d.engine.run import RunConfig
from medpretrain3d.engine.run_log import log_warnings
from medpretrain3d.interruption import NOTICE, Interrupted, requeue, signals
from medpretrain3d.memory import keep_freed_memory


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's program.

    Raises:
        SystemExit: with 2 after bad input, 1 after any other failure, 128 plus the signal when told to end.
    """
    ending.begin()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # its tips name other products, the rest `ProgressLines` says
    log_warnings()
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # whom it terminates when one has failed
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*isinstance.*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available on your system but is not used.*")
    warnings.filterwarnings(
        "ignore", message=".*when logging on epoch level in distributed setting.*"
    )  # it is gathered
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # its batch sampler is
    keep_freed_memory()
    try:
        signals.mode = "raise"
        signals.check()
        main()
    except Interrupted as interrupted:
        ending.interrupted(interrupted.signum)
    except KeyboardInterrupt:
        ending.interrupted(signal.SIGINT)
    except SystemExit as end:
        ending.done(end.code if isinstance(end.code, int) else 0)
        raise
    except Exception as error:
        ending.fail(error)
    ending.done()


def farewell(run: RunConfig, signum: int) -> str:
    """Return the last line of a run that was told to end."""
    if getattr(rank_zero_only, "rank", 0):
        return ""
    message = f"{run.folder}: interrupted by {signal.Signals(signum).name}"
    step = num_steps_done(run.checkpoints)
    if signum == NOTICE:
        return f"{message} at step {step}; {requeue()}"
    if not step:
        return f"{message} before its first checkpoint; the same command begins anew"
    same = "the same command without run.restart" if run.restart else "the same command"
    return f"{message}; {same} continues from the checkpoint of step {step}"
