"""Both stages are trained on the same batches, wherever the store lies and however."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from finetune.datamodule import FinetuneData
from medpretrain3d.cli import main
from medpretrain3d.store.store import Store
from pretrain.datamodule import PretrainData
from tests.store.byte_server import serving


@pytest.fixture(scope="module")
def places(cube_store, tmp_path_factory):
    """Folder, containers and URL of one store, by what `data` is given."""
    root = tmp_path_factory.mktemp("places")
    packed = root / "packed" / cube_store.name
    packed.parent.mkdir()
    assert main(["pack", str(cube_store), str(packed)]) == 0
    with pytest.MonkeyPatch.context() as patched, serving(root) as server:
        patched.setenv("MEDPRETRAIN3D_CACHE", str(root / "cache"))
        url = f"{server.url}/packed/{cube_store.name}"
        yield {
            "folders": {"store": str(cube_store)},
            "containers": {"store": str(packed)},
            "staged": {"store": str(cube_store), "stage_to": str(root / "nvme")},
            "url": {"store": url},
            "url, staged": {"store": url, "stage_to": str(root / "other_nvme")},
        }


@pytest.mark.parametrize("place", ["containers", "staged", "url", "url, staged"])
@pytest.mark.parametrize("stage", [PretrainData, FinetuneData])
def test_a_stage_sees_the_same_wherever_the_store_lies(places, stage, place):
    options = {"patch": (16, 16, 16), "batch_size": 2, "num_workers": 0}
    if stage is PretrainData:
        options["num_val_cases"] = 1
    data = {name: stage(**options, **places[name]) for name in ("folders", place)}
    assert data[place].metadata() == data["folders"].metadata()
    run = {"max_steps": 2, "accumulate_grad_batches": 1, "global_rank": 0, "world_size": 1, "global_step": 0}
    for one in data.values():
        one.trainer = SimpleNamespace(**run, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    batches = [next(iter(one.train_dataloader())) for one in data.values()]
    images = [batch["image"] if isinstance(batch, dict) else batch[0] for batch in batches]
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=0)


def test_what_is_read_of_a_store_is_there_in_its_copy(places):
    copy = FinetuneData(patch=(16, 16, 16), batch_size=2, num_workers=0, **places["url, staged"]).corpus.stores[0]
    for case_id in copy.case_ids:
        copy.case(case_id).verify()
    assert copy.fingerprint == Store(places["folders"]["store"]).fingerprint
