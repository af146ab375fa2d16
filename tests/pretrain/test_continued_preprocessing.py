"""What a run that goes on from an encoder says of its own data."""

from __future__ import annotations

from types import SimpleNamespace

from medpretrain3d.backbones import ResEnc, save_encoder
from medpretrain3d.configurable import to_config
from medpretrain3d.loading.views import OneView
from medpretrain3d.objectives import SparK
from medpretrain3d.store.intensity import PerUnit, ZScore
from pretrain.module import PretrainModule


def test_stores_and_window_of_the_run_are_compared_with_those_of_the_encoder(tmp_path, recwarn):
    how = {"window": to_config(ZScore("all")), "unit": "any", "spacing_mm": [1.0, 1.0, 1.0]}
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {"preprocessing": how})
    module = PretrainModule(SparK(ResEnc("XXS")), init_from=str(tmp_path / "encoder"))
    corpus = SimpleNamespace(units=("any",), spacing_mm=(3.0, 1.0, 1.0))
    data = SimpleNamespace(views=OneView(), patch=(16, 16, 16), corpus=corpus, window=PerUnit())
    module._trainer = SimpleNamespace(datamodule=data)
    module.setup("fit")
    told = [str(one.message) for one in recwarn]
    assert [text.startswith(f"the weights of {tmp_path / 'encoder'} were trained ") for text in told] == [True, True]
    data.window, corpus.spacing_mm = ZScore("all"), (1.0, 1.0, 1.0)
    module.setup("fit")
    assert len(recwarn) == 2
