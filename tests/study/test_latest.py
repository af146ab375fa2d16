"""Links to runs under names that do not change with the document."""

from __future__ import annotations

from medpretrain3d.study.document import read_study
from medpretrain3d.study.latest import link_latest, short_names
from medpretrain3d.study.records import Records
from medpretrain3d.study.run_study import progress_of

from .test_progress import finish


def test_names_that_would_be_one_have_their_identity_behind_them(write_study):
    arms = {"a": {}, "a-b": {"finetune": {"model.optim.lr": 0.1}}}
    detectors = {"b-c": {}, "c": {"with": {"trainer.max_steps": 3}}}
    study = read_study(write_study(arms=arms, detectors=detectors, hypotheses=[], seeds=1, labels=["all"], folds=[0]))
    records, jobs = Records(study), list(progress_of(study).jobs.jobs)
    for job in jobs:
        finish(records, job)
    link_latest(jobs, records)
    links = {path.name: path.resolve() for path in (study.folder / "latest").iterdir()}
    assert links == {name: records.run_folder(job).resolve() for job, name in short_names(jobs).items()}
    assert sum(name in ("a-c", "a-b-b-c") for name in links) == 2
    assert sum(name.startswith("a-b-c-") for name in links) == 2
