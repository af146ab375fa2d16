"""Every data set with a name is documented, has a recipe where it is for detection, and the two agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medpretrain3d.ingest.importers import layouts

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = {
    text.partition("\n")[0].strip(): text
    for text in (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8").split("\n### ")[1:]
}


@pytest.mark.parametrize("name", layouts())
def test_a_data_set_is_documented(name):
    for told in ("Get it:", "Licence:", "Errata:") if layouts()[name].kind != "generic" else ():
        assert told in SECTIONS[name], f"docs/datasets.md does not say '{told}' of {name}"
    assert len(SECTIONS[name]) > 100


@pytest.mark.parametrize("name", [name for name, layout in layouts().items() if layout.kind == "detection"])
def test_a_detection_set_has_a_recipe_of_its_classes(name):
    path = ROOT / "configs" / "finetune" / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    detector = recipe["model"]["detector"]["init_args"]
    assert detector["num_classes"] == len(layouts()[name].classes)
    assert recipe["data"]["store"] == f"data/{name}"
    assert recipe["run"]["group"] == name
    commands = (f"make finetune DATASET={name}\n", f"medpretrain3d cross-validate --config {name} ")
    assert any(command in text for command in commands)
    assert f"prepare --dataset {name} RAW data/{name}" in text
    assert "# Protocol:" in text
    assert recipe["trainer"]["max_steps"] > 0
    if "the schedule of the 2025 study" in text:  # docs/datasets.md: 50 x 2,500 steps of four patches, 4,000 warm-up
        assert recipe["trainer"]["max_steps"] == 50 * 2500
        assert (recipe["data"]["patch"], recipe["data"]["batch_size"]) == ([128, 128, 128], 4)
        assert recipe["model"]["optim"] == {"momentum": 0.9, "warmup_steps": 4000}
