from __future__ import annotations

import pytest

from medpretrain3d.command_line.stage_help import stage_help
from medpretrain3d.command_line.stages import begin


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_help_of_a_stage_is_short_and_of_this_project_first(stage, capsys):
    with pytest.raises(SystemExit) as ended:
        begin(stage, ["fit", "--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 170
    assert max(map(len, lines)) <= 120
    assert lines[0] == f"usage: medpretrain3d {stage} [--config RECIPE] [--KEY VALUE ...]"
    first = next(number for number, line in enumerate(lines) if line.startswith("  --trainer.max_steps"))
    assert all("--trainer." in line or not line.startswith("  --") for line in lines[first:]), "the trainer comes last"


def test_the_help_says_type_default_and_meaning():
    text = " ".join(stage_help("pretrain").split())
    assert "--data.batch_size crops per process and step; a whole number >= 1; required" in text
    assert "--model.optim.lr Peak learning rate; a finite number >= 0; default 0.01" in text
    assert "one of CaseClassification, ConsistentViews, DetectorPretraining, DINO, DINOv2, MAE" in text
    assert "mae_resenc_l" in text
