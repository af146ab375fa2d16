"""`python -m pretrain fit --config configs/pretrain/<recipe>.yaml`."""

from __future__ import annotations

from medpretrain3d.engine.callbacks import Previews
from medpretrain3d.engine.stage import StageCLI, run_stage
from pretrain.datamodule import PretrainData
from pretrain.export import ExportEncoder
from pretrain.module import PretrainModule


class PretrainCLI(StageCLI):
    """Stage 1 from the command line."""

    def before_fit(self) -> None:
        """Pictures while it trains, the encoder file at its end."""
        previews = Previews(self.run.folder / "previews")
        export = ExportEncoder(self.run, self.run_file, self.config_text())
        self.trainer.callbacks += [previews, export]  # type: ignore[attr-defined]  # Lightning sets it in a helper


def main(args: list[str] | None = None) -> None:
    """Parse the command line and train."""
    PretrainCLI(PretrainModule, PretrainData, job_type="pretrain", args=args)


if __name__ == "__main__":
    run_stage(main)
