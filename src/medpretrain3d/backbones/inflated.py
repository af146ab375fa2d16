"""Convolutional networks for natural images, inflated to volumes (I3D: Carreira and Zisserman, 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone, Level
from medpretrain3d.errors import UserError
from medpretrain3d.values import Channels, LayersOrNone

PROBE = 64  # pixels of the image that finds out where a network halves its maps


class InflatedCNN(Backbone):
    """Any timm network of plain convolutions as a 3D encoder.

    Between convolutions a volume is a batch of its slices, (B D, C, H, W), so norms, activations and gates are those of
    the 2D network. A convolution sees the volume: its kernel is repeated along depth and divided by the repeats, and
    the ends are padded with the first and last slice. A volume that is constant along depth therefore gives exactly the
    features that the 2D network gives for its slice; squeeze-and-excitation weighs each slice by itself.

    Args:
        model: a name of timm, such as `resnet50` or `convnext_tiny`.
        in_channels: channels of the image.
        num_flat: how many of the first halvings leave depth alone, for thick slices.
        checkpointing: compute each stage's activations again in the backward pass instead of keeping them.

    Raises:
        UserError: timm does not know the name, or the network changes sizes in layers that have no inflated form here.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import InflatedCNN
        >>> backbone = InflatedCNN("test_resnet").eval()
        >>> [tuple(features.shape[1:]) for features in backbone(torch.zeros(1, 1, 32, 32, 32))]
        [(32, 16, 16, 16), (32, 8, 8, 8), (48, 4, 4, 4), (192, 2, 2, 2), (96, 1, 1, 1)]
    """

    citation = "Carreira and Zisserman, 2017, arXiv:1705.07750"
    sizes = ({"model": "resnet18"}, {"model": "resnet50"}, {"model": "convnext_tiny"})

    def __init__(
        self,
        model: str = "resnet50",
        in_channels: Channels = 1,
        num_flat: LayersOrNone = 0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        net = plane_network(model, in_channels)
        self.model = model
        self.in_channels = in_channels
        self.checkpointing = checkpointing
        slices = _Slices()
        reductions = _reductions(net, model, in_channels)
        for module in list(net.modules()):
            if isinstance(getattr(module, "inplace", None), bool):
                module.inplace = False  # a level's map must outlive the layers behind it
            for name, child in module.named_children():
                if child in reductions:
                    before, after = (max(1, factor >> num_flat) for factor in reductions[child])
                    setattr(module, name, _inflated(child, after // before, slices))
        self.stages = nn.ModuleList(_Stage(stage, slices) for stage in net.values())
        self.is_level = [name in net.return_layers for name in net]
        self.levels = tuple(
            Level(channels, (max(1, factor >> num_flat), factor, factor))
            for channels, factor in zip(net.feature_info.channels(), net.feature_info.reduction(), strict=True)
        )

    @property
    def name(self) -> str:
        """Model name, as in `InflatedCNN-resnet50`."""
        return f"InflatedCNN-{self.model}"

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map an image (B, C, D, H, W) to one map (B, C_l, D / s_d, H / s_h, W / s_w) per level, finest first."""
        self.check_input(image)
        batch = image.shape[0]
        x = rearrange(image, "b c d h w -> (b d) c h w")
        features = []
        for stage, is_level in zip(self.stages, self.is_level, strict=True):
            x = self.run_block(stage, x, batch)
            if is_level:
                features.append(rearrange(x, "(b d) c h w -> b c d h w", b=batch))
        return features


def plane_network(model: str, in_channels: int) -> Any:
    """Return timm's network for planes as its `FeatureListNet`: a dictionary of stages, cut after the last feature map.

    Raises:
        UserError: timm does not know the name or gives no feature maps of it.
    """
    import timm

    # Where stages are entries of one list (EfficientNet), timm must be told to look inside it.
    reason = ""
    options: dict[str, Any] = {"features_only": True, "feature_cls": "list", "in_chans": in_channels}
    for extra in ({}, {"feature_cfg": {"flatten_sequential": True}}):
        try:
            net = timm.create_model(model, **(options | extra))
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
            reason = reason or str(error).splitlines()[0]
            continue
        if isinstance(net, nn.ModuleDict):
            return net
    raise UserError(
        f"InflatedCNN: timm makes no stages of '{model}' ({reason or 'of another kind'}); choose a convolutional "
        "network from timm.list_models(), such as resnet50"
    )


def inflated_weights(whole: Mapping[str, Tensor], backbone: InflatedCNN) -> dict[str, Tensor]:
    """Return the state dict that gives a backbone the features of timm's network for planes.

    Args:
        whole: the state dict of that network, classifier and all.
        backbone: of the same model and number of channels.
    """
    plane = plane_network(backbone.model, backbone.in_channels)
    # Cut into stages, `stages.0.blocks` is called `stages_0.blocks`.
    flat = {name.replace(".", "_"): value for name, value in whole.items()}
    weights = {}
    for index, (stage_name, stage) in enumerate(plane.items()):
        for name in stage.state_dict():
            weights[f"stages.{index}.net.{name}"] = flat[f"{stage_name}.{name}".replace(".", "_")]
    shapes = {name: value.shape for name, value in backbone.state_dict().items()}
    return {
        name: inflate(value, shapes[name][2]).clone() if len(shapes[name]) == value.ndim + 1 else value
        for name, value in weights.items()
    }


def inflate(weight: Tensor, kernel_depth: int) -> Tensor:
    """Return a kernel (out, in, kh, kw) to (out, in, kd, kh, kw): repeated along depth and divided by the repeats."""
    return weight[:, :, None].expand(-1, -1, kernel_depth, -1, -1) / kernel_depth


@dataclass
class _Slices:
    """Number of volumes that the slices at hand belong to; one object that all layers of a network share."""

    num_volumes: int = 1


class _Stage(nn.Module):
    def __init__(self, net: nn.Module, slices: _Slices) -> None:
        super().__init__()
        self.net = net
        self.slices = slices

    def forward(self, x: Tensor, num_volumes: int) -> Tensor:
        self.slices.num_volumes = num_volumes
        result: Tensor = self.net(x)
        return result


class _Conv(nn.Module):
    """A convolution over slices (B D, C, H, W) that looks and steps along depth as it does in the plane."""

    def __init__(self, plane: nn.Conv2d, depth_stride: int, slices: _Slices) -> None:
        super().__init__()
        edge = plane.kernel_size[0]
        # An even kernel is a patch embedding, as deep as its step.
        self.kernel_depth = edge if edge % 2 else depth_stride
        self.depth_stride = depth_stride
        self.slices = slices
        self.plane = (plane.stride, plane.padding, plane.dilation, plane.groups)
        self.weight = nn.Parameter(inflate(plane.weight.detach(), self.kernel_depth).clone())
        self.bias = plane.bias

    def forward(self, x: Tensor) -> Tensor:
        stride, padding, dilation, groups = self.plane
        if self.kernel_depth == 1:
            x = _every(x, self.depth_stride, self.slices)
            return F.conv2d(x, self.weight[:, :, 0], self.bias, stride, padding, dilation, groups)
        x = rearrange(x, "(b d) c h w -> b c d h w", b=self.slices.num_volumes)
        if self.kernel_depth % 2:
            ends = dilation[0] * (self.kernel_depth - 1) // 2
            x = F.pad(x, (0, 0, 0, 0, ends, ends), mode="replicate")
        step = (self.depth_stride, *stride)
        x = F.conv3d(x, self.weight, self.bias, step, (0, *padding), (dilation[0], *dilation), groups)
        return rearrange(x, "b c d h w -> (b d) c h w")


class _Pool(nn.Module):
    """A pooling in the plane, then the same along depth: maximum over the kernel, or mean over a step."""

    def __init__(self, plane: nn.MaxPool2d | nn.AvgPool2d, depth_stride: int, slices: _Slices) -> None:
        super().__init__()
        self.plane = plane
        self.depth_stride = depth_stride
        self.slices = slices

    def forward(self, x: Tensor) -> Tensor:
        x = self.plane(x)
        step = self.depth_stride
        if step == 1:
            return x
        x = rearrange(x, "(b d) c h w -> b c d h w", b=self.slices.num_volumes)
        if isinstance(self.plane, nn.MaxPool2d):
            edge = self.plane.kernel_size
            edge = edge if isinstance(edge, int) else edge[0]
            x = F.max_pool3d(x, (edge, 1, 1), (step, 1, 1), (edge // 2 if edge % 2 else 0, 0, 0))
        else:
            x = F.avg_pool3d(x, (step, 1, 1))
        return rearrange(x, "b c d h w -> (b d) c h w")


def _every(x: Tensor, step: int, slices: _Slices) -> Tensor:
    if step == 1:
        return x
    x = rearrange(x, "(b d) c h w -> b d c h w", b=slices.num_volumes)[:, ::step]
    return rearrange(x, "b d c h w -> (b d) c h w")


def _inflated(child: nn.Module, depth_stride: int, slices: _Slices) -> nn.Module:
    if isinstance(child, nn.Conv2d):
        return _Conv(child, depth_stride, slices)
    assert isinstance(child, nn.MaxPool2d | nn.AvgPool2d)
    return _Pool(child, depth_stride, slices)


def _reductions(net: nn.Module, model: str, in_channels: int) -> dict[nn.Module, tuple[int, int]]:
    """For every layer to inflate, how much smaller than the image its input and its output are.

    Raises:
        UserError: another kind of layer convolves or changes the size.
    """
    found: dict[nn.Module, tuple[int, int]] = {}

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        x = args[0]
        if not (isinstance(output, Tensor) and x.ndim == output.ndim == 4 and output.shape[-1] > 1):
            return  # gates see one number per channel
        if type(module) in (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d) and not isinstance(module.padding, str):
            found[module] = (PROBE // x.shape[-1], PROBE // output.shape[-1])
        elif isinstance(module, nn.Conv2d) or (x.shape[-1] != output.shape[-1] and type(module) is not nn.Linear):
            raise UserError(
                f"InflatedCNN: '{model}' has a layer {type(module).__name__} that has no inflated form here; choose a "
                "network of plain convolutions and poolings, such as resnet50 or convnext_tiny"
            )

    with _observed(net, note), torch.no_grad():
        net.eval()(torch.zeros(1, in_channels, PROBE, PROBE, device=next(net.parameters()).device))
    net.train()
    return found


@contextmanager
def _observed(net: nn.Module, note: object) -> Iterator[None]:
    leaves = [module for module in net.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(note) for leaf in leaves]  # type: ignore[arg-type]  # a hook may return nothing
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
