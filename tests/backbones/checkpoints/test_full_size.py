"""The published sizes, written as nnssl publishes them: a class name, no sizes, every layer under two names."""

from __future__ import annotations

import math

import pytest
import torch

from medpretrain3d.backbones import Backbone, Primus, ReadOptions, ResEnc, read_encoder
from medpretrain3d.configurable import from_config

RESENC_KEYS = {
    "key_to_encoder": "encoder.stages",
    "key_to_stem": "encoder.stem",
    "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
    "key_to_lpe": None,
}
PRIMUS_KEYS = {
    "key_to_encoder": "eva",
    "key_to_stem": "down_projection",
    "keys_to_in_proj": ["down_projection.proj"],
    "key_to_lpe": "eva.pos_embed",
}


def filled(make) -> Backbone:
    """A network of random weights, without the time that its own initialisation takes at this size."""
    with torch.device("meta"):
        backbone = make()
    backbone.to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            edge = 1 / math.sqrt(max(1, parameter[0].numel()))
            parameter.uniform_(0.5, 1.5) if "norm" in name else parameter.uniform_(-edge, edge)
    return backbone.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "class_name", "prefix", "keys", "num_parameters", "preset"),
    [
        (lambda: ResEnc("L"), "ResEncL", "encoder.", RESENC_KEYS, 90_296_576, "L"),
        (lambda: Primus("M"), "PrimusM", "", PRIMUS_KEYS, 150_997_536, "M"),
    ],
    ids=["ResEnc-L", "Primus-M"],
)
def test_a_published_size_is_read_as_itself(tmp_path, make, class_name, prefix, keys, num_parameters, preset):
    source = filled(make)
    assert source.num_parameters() == num_parameters
    weights = {}
    for name, value in source.state_dict().items():
        weights[prefix + name] = value
        for own, alias in ((".conv.", ".all_modules.0."), (".norm.", ".all_modules.1.")):
            if own in name and class_name == "ResEncL":
                weights[prefix + alias.join(name.rsplit(own, 1))] = value
    plan = {
        "architecture_plans": {
            "arch_class_name": class_name,
            "arch_kwargs": None,
            "arch_kwargs_requiring_import": None,
        },
        "pretrain_plan": {"configurations": {"onemmiso": {"patch_size": [160, 160, 160], "spacing": [1, 1, 1]}}},
        **keys,
    }
    path = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": weights, "nnssl_adaptation_plan": plan, "trainer_name": "BaseMAETrainer"}, path)
    options = ReadOptions(token_order="whd") if class_name == "PrimusM" else ReadOptions()
    encoder = read_encoder(path, options)
    assert encoder.architecture["init_args"]["preset"] == preset
    with torch.device("meta"):
        twin = from_config(encoder.architecture)
    twin.load_state_dict(encoder.weights, assign=True)
    twin.eval()
    image = torch.randn(1, 1, 64, 32, 32)
    with torch.no_grad():
        for a, b in zip(twin(image), source(image), strict=True):
            assert torch.equal(a, b)
            assert b.std() > 0.01
    path.unlink()
