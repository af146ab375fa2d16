"""The command line both stages share: LightningCLI, a run folder, curves, tracking, checkpoints, resume."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from medpretrain3d import __version__
from medpretrain3d.atomic import locked_folder
from medpretrain3d.backbones import Backbone
from medpretrain3d.command_line.parser import option_values
from medpretrain3d.command_line.stages import stage_words
from medpretrain3d.documents import parse_yaml
from medpretrain3d.engine.checkpoint_files import CheckpointFiles, newest_whole_checkpoint
from medpretrain3d.engine.checkpoints import Checkpoints
from medpretrain3d.engine.compute import ComputeMeter
from medpretrain3d.engine.continuation import (
    accumulation_to_go_on,
    global_batch,
    num_processes_here,
)
from medpretrain3d.engine.continued_schedules import ContinuedSchedules
from medpretrain3d.engine.curves import ContinuedCurves, CurveLogger
from medpretrain3d.engine.device import DeviceConfig
from medpretrain3d.engine.distributed import rank_zero_print, trainer_as_asked
from medpretrain3d.engine.divergence import Divergence
from medpretrain3d.engine.end_together import EndTogether, leave_signals_alone
from medpretrain3d.engine.ending import ending
from medpretrain3d.engine.fit_loop import ResumableFitLoop
from medpretrain3d.engine.opened_run import open_run
from medpretrain3d.engine.precision import (
    UNDECIDED,
    SamePrecision,
    device_of,
    precision_metadata,
    precision_of_run,
)
from medpretrain3d.engine.progress_lines import ProgressLines, duration, start_line
from medpretrain3d.engine.rendezvous import meet_first, rendezvous_of_launched
from medpretrain3d.engine.requeue import leave_requeue_alone
from medpretrain3d.engine.restart import is_thrown_away
from medpretrain3d.engine.run import RunConfig, RunFile, git_sha, machine
from medpretrain3d.engine.run_log import run_log
from medpretrain3d.engine.snapshots import Snapshots
from medpretrain3d.engine.stage import farewell
from medpretrain3d.engine.stage_parser import StageParser, one_line
from medpretrain3d.engine.throughput import Throughput
from medpretrain3d.engine.tracked_run import tracked_runs, use_initial_weights
from medpretrain3d.engine.trackers import names_in_sweep, tracker_names, trackers
from medpretrain3d.engine.tracking import wandb_mode
from medpretrain3d.engine.trainer_arguments import trainer_arguments
from medpretrain3d.engine.trainer_options import check_options, trainer_help, trainer_options_used
from medpretrain3d.engine.validations import check_awaited, limit_as_number
from medpretrain3d.engine.weight_averaging import average_in_fp32, average_in_one_call
from medpretrain3d.errors import UserError
from medpretrain3d.interruption import signals
from medpretrain3d.lines import print_line
from medpretrain3d.plugins import loaded_plugins, take_plugins
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.threads import use_threads

PRINT = "--print_config"
PLACES = ("data.store", "model.init_from", "model.init_options")
"""Options that name files which decide about others."""


class StageCLI(LightningCLI):
    """LightningCLI with the conventions of this project.

    `run_file` is the run's `run.json`, from the moment the trainer exists.

    Args:
        model_class: the stage's LightningModule.
        datamodule_class: the stage's LightningDataModule.
        job_type: `pretrain` or `finetune`.
        args: command line, default `sys.argv`.
    """

    def __init__(
        self,
        model_class: type[L.LightningModule],
        datamodule_class: type[L.LightningDataModule],
        job_type: str,
        args: Sequence[str] | None = None,
    ) -> None:
        self.job_type = job_type
        run_log.begin()
        self.run_file: RunFile
        with ExitStack() as self._held:  # the lock of the run's folder
            super().__init__(
                model_class,
                datamodule_class,
                parser_class=StageParser,
                save_config_callback=None,  # written into the run's own folder below
                seed_everything_default=0,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,  # bundles and encoder files carry descriptions instead
                trainer_defaults={"max_epochs": 1, "num_sanity_val_steps": 0, "log_every_n_steps": 10, "devices": 1},
                args=list(args) if args is not None else None,
            )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only `fit`; testing closes a fine-tuning run by itself."""
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "ckpt_path", "weights_only"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run's place, and one seed for everything."""
        parser.add_argument(
            "--plugins",
            type=str | list[str],
            default=[],
            help="packages of your own whose classes the recipe names (docs/extending.md); repeatable",
        )
        parser.add_class_arguments(RunConfig, "run")
        parser.add_class_arguments(DeviceConfig, "device")
        parser.link_arguments("seed_everything", "data.seed")

    def before_instantiate_classes(self) -> None:
        """Refuse a name that is no folder name before anything is read or made; fill in what other files decide."""
        RunConfig(**self._get(self.config, "run"))
        config = self._own_config()
        self.resolve(config, is_said=True)
        if "trainer.accumulate_grad_batches" not in self._typed:
            adapted = accumulation_to_go_on(RunConfig(**config["run"]), config.as_dict())
            if adapted is not None:
                config["trainer.accumulate_grad_batches"], said = adapted
                rank_zero_print(said)

    def resolve(self, config: Namespace, is_said: bool) -> None:
        """Set options that are not given and that a file decides which the configuration names.

        Args:
            config: of a run; changed.
            is_said: whether the user reads what is set.
        """

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line, and compare what Lightning takes without a look."""
        args = take_plugins(sys.argv[1:] if args is None else args)
        words = stage_words(args, self.job_type)
        self._typed = option_values(words)
        if "--trainer.help" in words:
            print_line(trainer_help(self._subcommand_parsers["fit"]))
            raise SystemExit(0)
        flags = [word.partition("=")[2] for word in words if word.partition("=")[0] == PRINT]
        if "--config" in words:  # of none, jsonargparse prints the defaults, with what is required left open
            words = [word for word in words if word.partition("=")[0] != PRINT]
        self.config = parser.parse_args(words)
        self.config[self.config["subcommand"]]["plugins"] = [plugin.module for plugin in loaded_plugins()]
        for field, value in names_in_sweep().items():
            if field not in self._typed_of_run:
                self.config[self.config["subcommand"]]["run"][field] = value
        check_options(self.config[self.config["subcommand"]].as_dict())
        if flags:
            print_line(self.used_text(flags[-1]))
            raise SystemExit(0)

    def used_text(self, flags: str = "") -> str:
        """Return the configuration with what is decided from the hardware and by this stage, as YAML that is a recipe.

        What the stage adds of its own cannot be given in a recipe and is told in comments.

        Args:
            flags: `skip_default`, to leave out what is as it would be.
        """
        self.subcommand = self.config["subcommand"]
        config = self._own_config().clone()
        run = RunConfig(**config["run"])
        unknown = ""
        try:
            self.resolve(config, is_said=False)
        except UserError as error:  # of a file that an earlier program has yet to write
            unknown = f"\n# not known yet: {error}"
        for name, value in trainer_options_used(config["trainer"], run).items():
            config[f"trainer.{name}"] = value
        config["trainer.precision"] = precision_of_run(config["trainer"], run).precision
        text: str = self._parser(self.subcommand).dump(
            config, skip_none=False, skip_validation=True, skip_default="skip_default" in flags
        )
        self.config_init = Namespace(run=run, trainer=config["trainer"])
        self.run_file, self.curves = RunFile(run.folder), CurveLogger(run.folder)
        loggers = ["CurveLogger (metrics.csv)", *tracker_names(run, self._typed_of_run)]
        added = {
            "callbacks": [type(one).__name__ for one in self.callbacks()],
            "loggers": loggers,
            "plugins": [CheckpointFiles.__name__],
            "sampler": ["PositionBatches, a function of seed and step"],
        }
        message = "\n".join(f"#   {key}: {', '.join(ones)}" for key, ones in added.items())
        return f"{text}# added by the stage:\n{message}{unknown}"

    def instantiate_classes(self) -> None:
        """Make everything; a part that one of several types takes fails with an error of its own."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            if isinstance(error, UserError) or "Does not validate" not in str(error):
                raise
            raise UserError(one_line(str(error), self.parser)) from error

    @property
    def run(self) -> RunConfig:
        """Name, folder and tracking settings of this run."""
        result: RunConfig = self._get(self.config_init, "run")
        return result

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Return the trainer, with loggers, checkpoints and a precision that suits the hardware."""
        run, asked = self.run, self._get(self.config_init, "trainer")
        first_look = trainer_as_asked(asked)
        rank = first_look.global_rank
        rank_zero_only.rank = rank  # type: ignore[attr-defined]  # else `SLURM_PROCID`, of a run on its own as well
        ending.expect(rendezvous_of_launched(first_look))
        rank_zero_print(use_threads(num_processes_here(asked)))
        self.precision = precision_of_run(asked, run) if rank == 0 else UNDECIDED
        # Parsed once more: what was taken from an encoder's card lacks the defaults that the file is read with.
        plain = self._plain(self._parser(self.subcommand).parse_string(self.config_text()))
        if rank == 0:
            self._held.enter_context(locked_folder(run.folder))
            open_run(run, self.metadata(), self.config_text(), plain, self.precision.precision, self._reread)
        self.run_file = RunFile(run.folder)
        samples_per_step = global_batch(plain)
        self.curves = CurveLogger(run.folder, samples_per_step)
        loggers: list[Logger] = [self.curves]
        if rank == 0:
            metadata = self.run_file.read() | self.metadata()
            opened = trackers(run, self.job_type, metadata, self._typed_of_run, plain, samples_per_step)
            for one in opened:
                self._held.callback(one.leave)
            loggers += opened
        callbacks = [*(asked.get("callbacks") or []), *self.callbacks()]
        is_static = self.has_static_shapes()
        own = trainer_arguments(asked, run, self.precision.precision, callbacks, loggers, is_static)
        own["limit_val_batches"] = limit_as_number(asked.get("limit_val_batches"), self.datamodule.num_val_batches)
        check_awaited(callbacks, self.datamodule.num_val_batches > 0 and own["limit_val_batches"] != 0)
        device = DeviceConfig(**vars(self._get(self.config_init, "device")))
        device.apply(self.model, self.backbone(), device_of(asked).type)
        try:
            trainer = super().instantiate_trainer(**{**own, **kwargs})
        except (MisconfigurationException, ImportError, ValueError, TypeError) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())[:400]}") from error
        asked_and_found: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a list of them
        average_in_one_call(asked_and_found)
        average_in_fp32(asked_and_found)
        ResumableFitLoop.of(trainer)
        leave_requeue_alone(trainer)
        leave_signals_alone(trainer)
        meet_first(trainer, ending.meet)
        signals.farewell, signals.keep_words = partial(farewell, run), run_log.keep
        rank_zero_print(str(self.precision))
        return trainer

    def backbone(self) -> Backbone:
        """Return the backbone that is trained."""
        raise NotImplementedError("a stage says where its backbone is")

    def has_static_shapes(self) -> bool:
        """Whether all batches of training have the same shape."""
        return True

    def callbacks(self) -> list[L.Callback]:
        """Return the callbacks of every run of this stage, beside those of its recipe."""
        interval = self._get(self.config_init, "trainer").get("val_check_interval")
        every_n_steps = interval if isinstance(interval, int) else 100
        self.checkpoints = Checkpoints(self.run.checkpoints, every_n_steps, 60 * self.run.checkpoint_every_minutes)
        snapshots = Snapshots(self.run, self.write_product, lambda: self.run_file.minutes / 60)
        self.compute = ComputeMeter(self.run_file)
        curves = ContinuedCurves(self.curves)
        divergence = Divergence(self.run.checkpoints)
        together = EndTogether(self.checkpoints, snapshots, partial(farewell, self.run))
        throughput = Throughput()
        lines = ProgressLines(throughput)
        watchers = [SamePrecision(), ContinuedSchedules(), throughput, lines, self.compute, snapshots, together]
        return [divergence, self.checkpoints, curves, *watchers]

    def fit(self, **kwargs: Any) -> None:
        """Train, continuing an interrupted run of the same name and configuration."""
        run = self.run
        # Another process may look before the first one has thrown the earlier run away.
        resume = None if is_thrown_away(run) else newest_whole_checkpoint(run.checkpoints)
        self.checkpoints.resumed_from = resume
        if self.trainer.is_global_zero:
            batch_size = self.datamodule.batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches
            metadata = self.metadata() | RunMetadata(global_batch_size=batch_size)
            mode = wandb_mode(run.wandb, "wandb" in self._typed_of_run)
            run_log.say(start_line(metadata, run, self.trainer, self.datamodule.batch_size, mode, resume))
            self.run_file.update(metadata)
            use_initial_weights(self.trainer, self.model.init_from, self.model.encoder)
        with ending.launching(self.trainer):
            self.trainer.fit(**kwargs, ckpt_path=str(resume) if resume else None, weights_only=True)
        if self.trainer.interrupted:
            raise SystemExit(130)

    def write_product(self, trainer: L.Trainer, folder: Path, state: dict[str, Any]) -> None:
        """Write what the run would end with, if it ended now; the first process calls this.

        Args:
            trainer: between two steps.
            folder: where it goes.
            state: of the module, whole.
        """
        raise NotImplementedError("a stage says what it makes")

    def conclude(self) -> None:
        """Tell the trackers how the run ended, once `run.json` says it."""
        for tracked in tracked_runs(self.trainer) if self.trainer.is_global_zero else ():
            tracked.conclude(self.run_file.read())

    def say_end(self) -> None:
        """Say that all is done."""
        took = duration(60 * self.run_file.minutes)
        rank_zero_print(f"{self.run.folder}: finished after {self.trainer.global_step:,} steps; all of it took {took}")

    def metadata(self) -> RunMetadata:
        """Return the metadata of the run, as it begins: what dashboards and reports filter by."""
        run = self.run
        own = RunMetadata(
            stage=self.job_type,
            name=run.name,
            group=run.group,
            arm=run.arm,
            seed=self._get(self.config, "seed_everything"),
            budget_steps=self._get(self.config_init, "trainer").get("max_steps"),
            git_sha=git_sha(),
            medpretrain3d_version=__version__,
            machine=machine(),
            num_threads=torch.get_num_threads(),
            finished=False,
        )
        own |= precision_metadata(self.precision)
        result: RunMetadata = own | self.datamodule.metadata() | self.model.metadata()
        return result

    @property
    def _typed_of_run(self) -> set[str]:
        """Fields of `RunConfig` that the command line names, one by one or all at once."""
        given = self._typed.get("run", "")
        fields = parse_yaml(given) if given.lstrip().startswith("{") else {}
        return {*fields, *(name.removeprefix("run.") for name in self._typed if name.startswith("run."))}

    def _reread(self, path: Path) -> dict[str, Any]:
        """Return the configuration of a run in its folder, with today's default of what was no option then."""
        try:
            config: Namespace = self._parser(self.subcommand).parse_string(path.read_text(encoding="utf-8"))
            # They may have moved, so today's are looked into; whether those are the same is compared later.
            before = {name: config.get(name) for name in PLACES}
            for name in PLACES:
                config[name] = self._own_config().get(name)
            self.resolve(config, is_said=False)
            for name, value in before.items():
                config[name] = value
        except (UserError, OSError, ValueError) as error:
            raise UserError(
                f"{path}: not readable as a configuration ({error}); give another run.name, or run.restart=true to "
                "throw the run away"
            ) from error
        return self._plain(config)

    def _own_config(self) -> Namespace:
        config: Namespace = self.config.get(str(self.subcommand), self.config)
        return config

    def _plain(self, config: Namespace) -> dict[str, Any]:
        plain: dict[str, Any] = parse_yaml(self._parser(self.subcommand).dump(config, skip_none=False))
        return plain

    def config_text(self) -> str:
        """Return the whole configuration, defaults included, as YAML."""
        result: str = self._parser(self.subcommand).dump(self._own_config(), skip_none=False)
        return result
