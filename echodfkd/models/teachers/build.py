"""Build the teachers whose network is defined in this package, by kind; a network is imported when it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from echodfkd.core.errors import ConfigError, InputError
from echodfkd.core.records import CHAMBER_NAMES, CLASS_NAMES
from echodfkd.models.teachers.network_spec import NetworkSpec, PixelStatistics
from echodfkd.models.teachers.torch_teacher import TorchTeacher, hash_weights

if TYPE_CHECKING:
    from torch import nn

    from echodfkd.models.teachers.deeplabv3 import DeepLabV3


def build_teacher(*, kind: str, weights: str, device: str, batch_frames: int, precision: str = "fp32") -> TorchTeacher:
    """Build the teacher of this kind, ready to make soft masks.

    Args:
        kind: embedded, embedded_chambers, embedded_wild or echonet_deeplabv3.
        weights: checkpoint file; "" takes the shipped weights if there are any.
        device: auto (cuda if there is one), cpu or cuda.
        batch_frames: frames in one forward pass.
        precision: fp32, bf16 or fp16.

    Raises:
        InputError: the weights cannot be used.
        ConfigError: no such kind, or cuda without a CUDA device.
    """
    if kind not in NETWORKS:
        raise ConfigError(f"teacher.kind: got {kind!r}, allowed are {', '.join(NETWORKS)}")
    network, spec = NETWORKS[kind](weights)
    device = pick_device(device, "teacher.device")
    return TorchTeacher(network, spec, device=device, batch_frames=batch_frames, precision=precision)


def pick_device(device: str, option: str) -> str:
    """Resolve auto to cuda or cpu. Raises `ConfigError` if cuda is asked for and absent."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{option}: got cuda, but torch sees no CUDA device here; allowed are auto, cpu")
    return device


def _embedded(weights: str) -> tuple[nn.Module, NetworkSpec]:
    return _unet("embedded", CLASS_NAMES, weights)


def _embedded_chambers(weights: str) -> tuple[nn.Module, NetworkSpec]:
    return _unet("embedded_chambers", CHAMBER_NAMES, weights)


def _embedded_wild(weights: str) -> tuple[nn.Module, NetworkSpec]:
    return _unet("embedded_wild", CHAMBER_NAMES, weights)


def _unet(name: str, class_names: tuple[str, ...], weights: str) -> tuple[nn.Module, NetworkSpec]:
    from echodfkd.models.teachers import unet

    network = unet.load_embedded_teacher(weights or None, num_classes=len(class_names) - 1, shipped=name)
    statistics = PixelStatistics(mean=unet.PIXEL_MEAN, std=unet.PIXEL_STD)
    return network, NetworkSpec(name, statistics, class_names=class_names, channels_last=True)


def _echonet(weights: str) -> tuple[nn.Module, NetworkSpec]:
    from echodfkd.models.teachers import deeplabv3

    if not weights:
        raise InputError(
            "teacher.weights: teacher.kind=echonet_deeplabv3 needs the path of EchoNet-Dynamic's checkpoint"
            " deeplabv3_resnet50_random.pt, which does not ship with this package; got an empty path"
        )
    return fold_echonet(deeplabv3.load_echonet_checkpoint(weights))


def fold_echonet(network: DeepLabV3) -> tuple[nn.Module, NetworkSpec]:
    """EchoNet-Dynamic's network with its batch norms folded in place, and its pixel statistics."""
    from echodfkd.models.teachers import deeplabv3

    weights_hash = hash_weights(network)  # of the weights as they were published
    spec = NetworkSpec(
        "echonet_deeplabv3",
        PixelStatistics(mean=deeplabv3.PIXEL_MEAN, std=deeplabv3.PIXEL_STD),
        input_size=deeplabv3.INPUT_SIZE,
        weights_hash=weights_hash,
        channels_last=True,
    )
    return deeplabv3.fold_norms(network), spec


NETWORKS: dict[str, Callable[[str], tuple[nn.Module, NetworkSpec]]] = {
    "embedded": _embedded,
    "embedded_chambers": _embedded_chambers,
    "embedded_wild": _embedded_wild,
    "echonet_deeplabv3": _echonet,
}
"""Weights file ("" for the shipped one) -> network and how it is used, by kind."""
