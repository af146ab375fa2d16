from __future__ import annotations

import pytest
import yaml

from medpretrain3d.errors import UserError
from medpretrain3d.statistics import parse_hypothesis
from medpretrain3d.study.design import StepBudget
from medpretrain3d.study.document import KEYS, read_study


def test_a_document_says_what_is_compared(write_study):
    study = read_study(
        write_study(
            arms={
                "scratch": None,
                "mae": {"pretrain": "pretrain.yaml"},
                "mae_60": {"pretrain": "pretrain.yaml", "with": {"model.objective.init_args.mask_ratio": 0.6}},
                "released": {"init_from": "released.pt"},
            },
            labels=[1, 0.5, "all"],
            hypotheses=["mae > scratch", "mae_60=mae"],
            delta=0.02,
        )
    )
    assert study.baseline.name == "scratch"
    assert [arm.name for arm in study.arms] == ["scratch", "mae", "mae_60", "released"]
    assert study.arms[2].changes == {"model.objective.init_args.mask_ratio": 0.6}
    assert [budget.options for budget in study.labels] == [
        {"data.num_train_cases": 1},
        {"data.label_fraction": 0.5},
        {},
    ]
    assert study.seeds == (0, 1)
    assert (str(study.declaration.metric), study.declaration.labels, study.declaration.delta) == ("mAP", "all", 0.02)
    assert study.declaration.hypotheses == (parse_hypothesis("mae > scratch"), parse_hypothesis("mae_60 = mae"))


def test_a_document_lies_on_its_base_and_options_on_both(write_study, tmp_path):
    write_study()
    above = {"base": "study.yaml", "arms": {"voco": {"pretrain": "pretrain.yaml", "with": {"model.optim.lr": 0.1}}}}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(above))
    study = read_study(tmp_path / "more.yaml", {"seeds": [7]})
    assert [arm.name for arm in study.arms] == ["scratch", "mae", "voco"]
    assert study.seeds == (7,)


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("data", "finetune.yaml", "finetune.yaml"),
        ("arms", {}, {"finetune": {"model.optim.lr": 0.1}}),
        ("detectors", {}, {"with": {"model.optim.lr": 0.1}}),
        ("prepare", "prepare raw {store}", "split {store}"),
    ],
)
def test_a_number_and_its_text_are_one_name(write_study, tmp_path, key, one, other):
    """A document may name what its base names otherwise."""
    write_study(hypotheses=[], **{key: {1: one}})
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"base": "study.yaml", key: {"1": other}}))
    with pytest.raises(UserError, match=rf"more\.yaml: {key}: 1 is there twice; keep one of them"):
        read_study(tmp_path / "more.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 3}, "unknown key 'seed'; did you mean 'seeds'?"),
        ({"name": "drop"}, "has no key 'name'"),
        ({"name": "../up"}, "wanted a plain folder name"),
        ({"data": {}}, "data: got {}, wanted names of data sets"),
        ({"data": {"a": "finetun.yaml"}}, "data.a: finetun.yaml: no such file"),
        ({"data": {"a": "openkpb"}}, "data.a: openkpb: no such file, and no recipe .* did you mean 'openkbp'"),
        ({"arms": ["scratch"]}, "arms: got .*, wanted names of arms"),
        ({"arms": {"scratch": {"pretain": "x"}}}, "arms.scratch: unknown key 'pretain'; did you mean 'pretrain'?"),
        ({"arms": {"a": {"with": {"model.optim.lr": 1}}}}, "arms.a: `with` changes a recipe of pretrain"),
        ({"arms": {"a": {"pretrain": "pretrain.yaml", "init_from": "b"}}}, "arms.a: has pretrain and init_from"),
        ({"arms": {"a": {}, "b": {"pretrain": []}}}, r"arms.b.pretrain: got \[\], wanted recipes in turn"),
        ({"arms": {"a": {}, "b": {"pretrain": ["smoke", "smoke"]}}}, "arms.b.pretrain: smoke is there twice"),
        ({"arms": {"a": {}, "b": {"pretrain": {"cubes": ["smoke", "smkoe"]}}}}, "smkoe"),
        ({"arms": {"a": {}, "b": {}}, "hypotheses": []}, "arms: a and b are the same"),
        ({"arms": {"a": {"finetune": {"run.name": "x"}}}}, "arms.a.finetune: run.name is set by the study"),
        ({"arms": {"a": {"finetune": {"data.seed": 1}}}}, "data.seed is set by the study"),
        ({"labels": [1, 1]}, "labels: 1 is there twice"),
        ({"labels": [0]}, "labels.0: got 0, wanted a number of cases"),
        ({"labels": ["some"]}, "labels.some: got 'some'"),
        ({"labels": [[1]]}, r"labels.\[1\]: got \[1\], wanted a number of cases"),
        ({"labels": {1: 2}}, "labels.1: got 2, wanted {with"),
        ({"labels": {1: {"steps": 2}}}, "labels.1: unknown key 'steps'"),
        ({"seeds": 0}, "seeds: got 0, wanted how many seeds"),
        ({"seeds": [1, 1]}, "seeds: 1 is there twice"),
        ({"seeds": "five"}, "seeds: got 'five'"),
        ({"pretrain_seeds": -1}, "pretrain_seeds: got -1"),
        ({"folds": "some"}, "folds: got 'some', wanted all, or a list"),
        ({"primary": {"metric": "map"}}, "primary.metric: got 'map', .*did you mean 'mAP'"),
        ({"primary": {"labels": 4}}, "primary.labels: got 4, which is none of the study's labels: 1, all"),
        ({"delta": 0}, "delta: got 0, wanted a number above 0"),
        ({"delta": True}, "delta: got True"),
        ({"hypotheses": ["mae is better"]}, "hypotheses: hypothesis 'mae is better': wanted arms with one of"),
        ({"hypotheses": ["mea > scratch"]}, "no arm 'mea'; did you mean 'mae'?"),
        ({"hypotheses": ["mae > mae"]}, "compares an arm with itself"),
        ({"hypotheses": ["mae at all > mae"]}, "compares an arm with itself, since labels are all"),
        (
            {"detectors": {"a": {"arms": ["scratch"]}, "b": {"arms": ["mae"]}}},
            "'mae > scratch': no detector is run with all of its arms and labels on one data set",
        ),
        ({"hypotheses": ["mae > scratch", "mae>scratch"]}, "hypotheses: mae > scratch is there twice"),
        ({"hypotheses": ["mae > scratch at 2"]}, "'mae > scratch at 2': the study has no labels '2'; labels: 1, all"),
        ({"hypotheses": ["mae > scratch on cube"]}, "no data set 'cube'; did you mean 'cubes'?"),
        ({"hypotheses": ["mae = scratch"]}, "'mae = scratch': nothing says what counts as no difference; add delta"),
        ({"hypotheses": ["mae >= scratch"]}, "nothing says what counts as no difference; add delta"),
        (
            {
                "arms": {"scratch": {}, "mae": {"pretrain": "pretrain.yaml", "labels": ["all"]}},
                "hypotheses": ["mae > scratch at 1"],
            },
            "the study does not run mae with labels 1; see its arm's keys",
        ),
        ({"arms": {"scratch": {"labels": [1]}}, "hypotheses": []}, "scratch is the baseline, so it is run with every"),
        ({"arms": {"scratch": {}, "b": {"labels": [3]}}, "hypotheses": []}, "arms.b.labels: got 3, wanted some of 1"),
        (
            {"arms": {"scratch": {}, "b": {"steps": 0}}, "hypotheses": []},
            "arms.b.steps: got 0, wanted a number above 0",
        ),
        ({"arms": {"scratch": {}, "b": {"pretrain": {"cube": "x"}}}, "hypotheses": []}, "did you mean 'cubes'?"),
        ({"detectors": {"a": {"arms": ["mea"]}}}, "detectors.a.arms: got mea, .* did you mean 'mae'?"),
        ({"prepare": {"s": "finetune --config x"}}, "prepare.s: got 'finetune', wanted a command that makes a store"),
        ({"prepare": {"s": "prepare a {store}", "s/t": "prepare a {store}"}}, "s/t lies in s"),
        ({"resources": {"tune": {}}}, "resources: unknown key 'tune'"),
        ({"resources": {"finetune": {"gpus": -1}}}, "resources.finetune.gpus: got -1"),
        ({"detectors": []}, "detectors: got \\[\\], wanted names"),
        ({"detectors": ["fcso"]}, "detectors.fcso: no recipe of it: .* is of RetinaNet"),
        ({"detectors": {"a": {"recipes": {"cube": "x"}}}}, "unknown key 'cube'; did you mean 'cubes'?"),
        ({"steps": []}, "is a list of steps, the form of earlier versions"),
        ({"steps": [{"run": "prepare"}]}, "is a list of steps, the form of earlier versions"),
        ({"steps": 0.5}, r"steps: got 0.5, wanted shares of the steps, as \[0.25, 0.5, 1\]"),
        ({"steps": [0.5]}, r"steps: got \[0.5\], without 1"),
        ({"steps": [0.5, 0.5, 1]}, "steps: 0.5 is there twice"),
        ({"steps": [0, 1]}, "steps: got 0, wanted a number above 0"),
        ({"steps": [1, 2]}, "steps: got 2, wanted a number above 0 and at most 1"),
        (
            {"steps": [0.5, 1], "arms": {"scratch": {}, "half": {"steps": 0.5}}, "hypotheses": []},
            "steps: half has steps of its own, and the study has shares for every arm; drop one of them",
        ),
        (
            {"hypotheses": ["mae at 0.5 steps > scratch"]},
            r"the study does not run mae at 0.5 of the steps \(it does at 1\); add steps: \[0.5, 1\]",
        ),
        (
            {"steps": [0.5, 1], "hypotheses": ["mae at 1 at 0.5 steps > scratch"]},
            r"the study does not run mae with labels 1 at 0.5 of the steps \(it does at 1\)",
        ),
        (
            {"steps": [0.5, 1], "hypotheses": ["mae at 0.25 steps > scratch"]},
            r"does not run mae at 0.25 of the steps \(it does at 0.5, 1\)",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(write_study, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        read_study(write_study(**changes))
    assert "study.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_key_is_read(write_study):
    for key in KEYS:
        with pytest.raises(UserError):
            read_study(write_study(**{key: {"what": "is this"} if key != "root" else 3}))


def test_detectors_are_recipes_beside_that_of_the_data_or_named(write_study, tmp_path):
    (tmp_path / "finetune_fcos.yaml").write_text("base: phantom_fcos\n")
    study = read_study(write_study(detectors=["retina_net", "fcos"]))
    assert [dict(one.recipes) for one in study.detectors] == [
        {"cubes": "finetune.yaml"},
        {"cubes": "finetune_fcos.yaml"},
    ]
    (tmp_path / "named.yaml").write_text("base: finetune.yaml\nmodel: {detector: FCOS}\n")
    (named,) = read_study(write_study(data={"cubes": "named.yaml"}, detectors=["fcos"])).detectors
    assert dict(named.recipes) == {"cubes": "named.yaml"}
    study = read_study(write_study(detectors={"wide": {"with": {"model.detector.init_args.fpn_channels": 32}}}))
    assert study.detectors[0].changes == {"model.detector.init_args.fpn_channels": 32}


def test_an_arm_at_a_share_of_the_steps_is_a_share_of_the_study_or_an_arm_like_it(write_study):
    study = read_study(write_study(steps=[1, 0.5], hypotheses=["mae at 0.5 steps > scratch", "mae > scratch"]))
    assert study.steps == (0.5, 1.0)
    assert study.step_budget("mae", 0.5) == StepBudget("mae", 0.5)
    own = {"scratch": {}, "mae": {"pretrain": "pretrain.yaml"}}
    own["mae_half"] = {"pretrain": "pretrain.yaml", "steps": 0.5, "labels": ["all"]}
    own["other_half"] = {"pretrain": "pretrain.yaml", "steps": 0.5, "finetune": {"model.optim.lr": 0.1}}
    asked = ["mae at 0.5 steps > scratch", "mae_half at 0.5 steps > mae", "mae_half > scratch"]
    study = read_study(write_study(arms=own, hypotheses=asked))
    assert study.step_budget("mae_half") == StepBudget("mae", 0.5)
    assert study.step_budget("other_half") == StepBudget("other_half", 0.5)  # it differs in more than the steps
    assert study.step_budget("mae").is_whole
    with pytest.raises(UserError, match="does not run mae_half with labels 1"):  # with all of them alone
        read_study(write_study(arms=own, hypotheses=["mae at 1 at 0.5 steps > scratch at all"]))


def test_the_places_of_a_study_may_be_named_from_the_home_folder(write_study, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    study = read_study(write_study(root="~/runs", results="~/results"))
    assert (study.root, study.results) == (tmp_path / "runs", tmp_path / "results")
