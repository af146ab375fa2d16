from __future__ import annotations

import yaml

from medpretrain3d import cli
from medpretrain3d.description import build


def test_plan_prints_anchors_that_a_recipe_can_use(cube_store, capsys):
    assert cli.main(["plan", str(cube_store), "--strides", "2", "4", "--anchors-per-level", "2"]) == 0
    printed = capsys.readouterr().out
    # Every cube is 8 voxels wide, so an anchor can fit it exactly.
    assert "mean best IoU 1.000" in printed
    grid = build(yaml.safe_load(printed)["anchors"])
    assert grid.num_levels == 2
    assert (8.0, 8.0, 8.0) in [size for level in grid.sizes for size in level]
