"""EchoNet-Dynamic's teacher: DeepLabV3 with a dilated ResNet-50, in plain torch.

Architecture: Chen et al. 2017 ("Rethinking atrous convolution"), He et al. 2016, with the parameter names of
torchvision's ``deeplabv3_resnet50(aux_loss=None)`` and one output class, so that the published checkpoint
(Ouyang et al. 2020, ``deeplabv3_resnet50_random.pt``) loads without torchvision.

Legend: N frames, C channels, H rows, W columns.
"""

from __future__ import annotations

import os
import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from echodfkd.core.errors import InputError

PIXEL_MEAN = (32.085175, 32.591923, 33.37932)
PIXEL_STD = (50.129288, 50.487717, 51.34619)
"""Grey levels per channel that EchoNet-Dynamic's released model was trained with."""
INPUT_SIZE = 112

ATROUS_RATES = (12, 24, 36)


class Conv(nn.Conv2d):
    """A convolution that keeps its size, and that skips taps which see only padding.

    If the maps are no larger than the dilation, every tap of a 3 x 3 kernel but the middle one lies in the padding:
    at 112 x 112 pixels, maps are 14 x 14 and two of the pyramid's branches dilate by 24 and 36.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, before, H, W) -> (N, after, H / stride, W / stride)."""
        if self.kernel_size == (3, 3) and min(self.dilation) >= max(input.shape[-2:]):
            return F.conv2d(input, self.weight[:, :, 1:2, 1:2], self.bias, self.stride)
        return super().forward(input)


def _conv_norm(before: int, after: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    conv = Conv(before, after, kernel, stride=stride, padding=padding, dilation=dilation, bias=False)
    return [conv, nn.BatchNorm2d(after)]


class Bottleneck(nn.Module):
    """Residual block 1x1, 3x3, 1x1 with four times the width at its end."""

    def __init__(self, before: int, width: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        after = 4 * width
        self.conv1, self.bn1 = _conv_norm(before, width, 1)
        self.conv2, self.bn2 = _conv_norm(width, width, 3, stride=stride, dilation=dilation)
        self.conv3, self.bn3 = _conv_norm(width, after, 1)
        self.downsample: nn.Module | None = None
        if before != after or stride != 1:
            self.downsample = nn.Sequential(*_conv_norm(before, after, 1, stride=stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, 4 width, H / stride, W / stride)."""
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class Backbone(nn.Module):
    """ResNet-50 without its classifier; the last two stages dilate by 2 and 4 instead of striding (output 1/8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv_norm(3, 64, 7, stride=2)
        self.layer1 = _stage(64, 64, 3, stride=1, first_dilation=1, dilation=1)
        self.layer2 = _stage(256, 128, 4, stride=2, first_dilation=1, dilation=1)
        self.layer3 = _stage(512, 256, 6, stride=1, first_dilation=1, dilation=2)
        self.layer4 = _stage(1024, 512, 3, stride=1, first_dilation=2, dilation=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, 2048, H / 8, W / 8)."""
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, stride=2, padding=1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def _stage(before: int, width: int, blocks: int, *, stride: int, first_dilation: int, dilation: int) -> nn.Sequential:
    first = Bottleneck(before, width, stride=stride, dilation=first_dilation)
    rest = [Bottleneck(4 * width, width, stride=1, dilation=dilation) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


class PooledContext(nn.Sequential):
    """The whole image's mean as one more branch of the pyramid."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *_conv_norm(before, after, 1), nn.ReLU())

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, after, H, W), constant over pixels."""
        return super().forward(input).expand(-1, -1, *input.shape[-2:])


class AtrousPyramid(nn.Module):
    """Five branches over the same features: 1x1, three dilations, the pooled context; then a projection."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        branches: list[nn.Module] = [nn.Sequential(*_conv_norm(before, after, 1), nn.ReLU())]
        for rate in ATROUS_RATES:
            branches.append(nn.Sequential(*_conv_norm(before, after, 3, dilation=rate), nn.ReLU()))
        branches.append(PooledContext(before, after))
        self.convs = nn.ModuleList(branches)
        self.project = nn.Sequential(*_conv_norm(len(branches) * after, after, 1), nn.ReLU(), nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, before, H, W) -> (N, after, H, W)."""
        return self.project(torch.cat([branch(x) for branch in self.convs], dim=1))


class DeepLabV3(nn.Module):
    """LV logits (N, 1, H, W) of normalised RGB frames (N, 3, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.classifier = nn.Sequential(
            AtrousPyramid(2048, 256), *_conv_norm(256, 256, 3), nn.ReLU(), nn.Conv2d(256, 1, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits at the input's size (bilinear from 1/8)."""
        logits = self.classifier(self.backbone(x))
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)


def fold_norms(network: DeepLabV3) -> DeepLabV3:
    """The same function in eval mode with every batch norm folded into the convolution before it; in place.

    y = (w * x - m) g / sqrt(v + e) + b is (w g / sqrt(v + e)) * x + b - m g / sqrt(v + e): a pass over the maps less.
    """
    for module in list(network.modules()):
        children = list(module.named_children())
        for (name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, Conv) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return network


def load_echonet_checkpoint(path: str) -> DeepLabV3:
    """The network with the weights of an EchoNet-Dynamic checkpoint, in eval mode.

    The file is a dictionary whose ``state_dict`` entry has torchvision's names behind DataParallel's
    ``module.``. It is read without unpickling objects.

    Raises:
        InputError: no such file, not a checkpoint, pickled objects in it, or another architecture.
    """
    weights = _read_state_dict(path)
    state = {str(name).removeprefix("module."): value for name, value in weights.items()}
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        network = DeepLabV3()
    expected = network.state_dict()
    faults = [f"misses {name}" for name in expected if name not in state]
    faults += [f"has an unknown {name}" for name in state if name not in expected]
    faults += [
        f"has {name} of shape {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    faults += [
        f"has {name} as {state[name].layout} {state[name].dtype} instead of dense {value.dtype}"
        for name, value in expected.items()
        if name in state and (state[name].dtype, state[name].layout) != (value.dtype, torch.strided)
    ]
    if faults:
        raise InputError(
            f"teacher.weights: {path} is not EchoNet-Dynamic's DeepLabV3-ResNet50 with one class: it {faults[0]}"
            f" ({len(faults)} of {len(expected)} entries differ)"
        )
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def _numpy_numbers() -> list[Any]:
    """The parts of a pickled numpy number (a best loss, say), under their old and new module names."""
    scalar = np.float64(0).__reduce__()[0]
    return [np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, scalar, (scalar, "numpy.core.multiarray.scalar")]


def _read_state_dict(path: str) -> dict[str, torch.Tensor]:
    if not os.path.isfile(path):
        raise InputError(f"teacher.weights: no file {path}")
    try:
        with torch.serialization.safe_globals(_numpy_numbers()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise InputError(
                f"teacher.weights: {path} holds pickled Python objects beside tensors and was not opened,"
                " because unpickling runs code; expected a file of plain tensors and numbers"
            ) from error
        raise InputError(f"teacher.weights: {path} is not a torch checkpoint") from error
    except Exception as error:
        raise InputError(f"teacher.weights: {path} is not a torch checkpoint") from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError(
            f"teacher.weights: {path} holds no `state_dict` of tensors, as EchoNet-Dynamic's checkpoints do"
        )
    return weights
