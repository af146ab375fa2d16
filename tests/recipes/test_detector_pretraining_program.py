"""A detector that is pretrained on pseudo-objects and fine-tuned: pseudo, stage 1, stage 2, through their programs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from finetune import __main__ as finetune_program
from medpretrain3d.backbones import ResEnc, VolumesSeen, read_encoder
from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.inference import load_bundle
from medpretrain3d.store import Store
from pretrain import __main__ as pretrain_program

from .conftest import TINY_FINETUNE, TINY_PRETRAIN

RECIPE = """
base: {base}
model:
  objective:
    class_path: DetectorPretraining
    init_args:
      detector:
        class_path: RetinaNet
        init_args:
          backbone: {{class_path: ResEnc, init_args: {{preset: XXS}}}}
          num_classes: 2
          first_level: 1
          fpn_channels: 16
          head_convs: 1
          anchors:
            class_path: AnchorGrid
            init_args: {{sizes: [[[2.5, 2.5, 2.5], [4, 4, 4]], [[6, 6, 6], [10, 10, 10]]]}}
data: {{views: {{class_path: ObjectView}}, crop_sampler: {{class_path: CropSampler, init_args: {{object_share: 0.8}}}}}}
"""


@pytest.fixture(scope="module")
def pseudo(cube_store, tmp_path_factory):
    """Cubes are above -300 HU in air: the body, in which thresholds find the same cubes."""
    out = tmp_path_factory.mktemp("pseudo") / "store"
    words = ["--bone-hu", "0", "--bone-cm3", "0.1", "500", "--num-air", "0", "--tissue-cm3", "0.1", "80"]
    main(["pseudo", str(cube_store), str(out), *words, "--pictures", "0"])
    return out


def pretrained(root, store, *arguments):
    smoke = Path("configs/pretrain/smoke.yaml").resolve()
    (root / "recipe.yaml").write_text(RECIPE.format(base=smoke))
    words = ["--config", str(root / "recipe.yaml"), *TINY_PRETRAIN[2:], "--data.store", str(store), *arguments]
    pretrain_program.main(["fit", *words, "--run.root", str(root), "--run.name", "detector"])
    return root / "smoke" / "detector"


@pytest.fixture(scope="module")
def run(pseudo, tmp_path_factory):
    return pretrained(tmp_path_factory.mktemp("detector"), pseudo)


@pytest.fixture
def fit(cube_store, tmp_path):
    def go(*arguments: str, name: str = "run"):
        place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", name]
        finetune_program.main(["fit", *TINY_FINETUNE, *place, *arguments])
        return tmp_path / "g" / name

    return go


def test_the_encoder_file_holds_the_detector_too_and_labels_count_as_unseen(run, pseudo):
    encoder = read_encoder(run / "encoder")
    assert encoder.card["pretraining"]["paradigm"] == "detector"
    assert encoder.detector is not None
    assert encoder.detector.architecture["class_path"].endswith("RetinaNet")
    assert {name.split(".")[0] for name in encoder.detector.weights} == {"fpn", "classification_head", "box_head"}
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert facts["checkpoint_sha256"] == encoder.sha256
    store, seen = Store(pseudo), VolumesSeen.of_encoder(encoder)
    voxels = {case_id: store.entries[case_id]["voxels"] for case_id in store.case_ids}
    assert len(seen.among(voxels)) == 3  # 4 training cases, of which one watches the loss; never those that are tested
    assert all(case_id.startswith("train") for case_id in seen.among(voxels))
    assert seen.among(voxels, with_labels=True) == []
    checkpoint = read_encoder(run)  # the run's own product
    assert checkpoint.sha256 == encoder.sha256
    last = read_encoder(run / "checkpoints" / "last.ckpt")
    assert last.detector is not None
    assert last.detector.weights.keys() == encoder.detector.weights.keys()
    assert set(last.unused) == {"detector"}  # beside the encoder; an encoder file keeps it apart


def test_objects_that_somebody_labeled_count_as_labels_and_another_number_of_kinds_is_refused(cube_store, tmp_path):
    with pytest.raises(UserError, match="got num_classes 2, but the store has 1 kinds of objects"):
        pretrained(tmp_path, cube_store)
    few = ("--trainer.max_steps", "2", "--trainer.val_check_interval", "2")
    one = ("--model.objective.init_args.detector.init_args.num_classes", "1")
    encoder = read_encoder(pretrained(tmp_path, cube_store, *few, *one) / "encoder")
    voxels = {case_id: row["voxels"] for case_id, row in Store(cube_store).entries.items()}
    assert len(VolumesSeen.of_encoder(encoder).among(voxels, with_labels=True)) == 3


def test_fine_tuning_takes_neck_and_box_head_and_says_which(run, fit, capsys):
    folder = fit("--model.init_from", str(run / "encoder"), "--model.optim.transferred_lr_scale", "0.5")
    printed = capsys.readouterr().out
    detector = read_encoder(run / "encoder").detector
    assert detector is not None
    counts = Counter(name.split(".")[0] for name in detector.weights)
    taken = f"neck ({counts['fpn']}), box head ({counts['box_head']})"
    told = f"{counts['fpn'] + counts['box_head']} of {counts.total()} tensors beside the encoder taken: {taken}"
    assert f"init detector: {told}; fresh: class tower (3), class layers (2); unused: class layers (2)" in printed
    assert "backbone tensors matched; fresh: classification_head (5); unused: none" in printed
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (facts["paradigm"], facts["method"]) == ("detector", "detectorpretraining")
    assert facts["pretrain_run"] == "smoke/detector"
    assert facts["num_test_cases_seen_with_labels"] == 0


def test_fine_tuning_takes_depth_groups_of_the_encoder_alone_and_says_which(run, fit, capsys):
    num_groups = len(ResEnc("XXS").depth_groups())
    encoder, one = str(run / "encoder"), "--model.init_groups"
    folder = fit("--model.init_from", encoder, one, "2", "--model.optim.lr", "0")
    printed = capsys.readouterr().out
    assert f"2 of {num_groups} depth groups taken, others keep random values" in printed
    assert "init detector" not in printed  # neck and box head were trained upon the whole encoder
    bundle = load_bundle(folder / "bundle")
    assert bundle.provenance["encoder"]["init_groups"] == 2
    ours = bundle.detector.backbone.state_dict()
    for name, tensor in read_encoder(encoder).weights.items():
        if name.endswith("conv.weight"):
            assert torch.equal(tensor, ours[name]) == name.startswith(("stem.", "stages.0."))
    for others in (("--model.init", "neck"), ("--model.init_fpn", "true")):
        with pytest.raises(UserError, match=r"init_groups 2: neck and heads were trained upon the whole encoder"):
            fit("--model.init_from", encoder, one, "2", *others)
    with pytest.raises(UserError, match=r"init_groups 2: no model\.init_from"):
        fit(one, "2")


def test_more_than_a_file_holds_is_refused(fit, run, tmp_path):
    with pytest.raises(UserError, match=r"model\.init neck: no model\.init_from holds no neck and heads"):
        fit("--model.init", "neck")
    with pytest.raises(UserError, match=r"model\.init all and model\.init_fpn: give one of them"):
        fit("--model.init_from", str(run / "encoder"), "--model.init", "all", "--model.init_fpn", "true")
