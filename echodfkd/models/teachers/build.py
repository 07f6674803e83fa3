"""Builds a teacher by its kind; a builder is imported when it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from echodfkd.core.errors import ConfigError, InputError
from echodfkd.core.records import CHAMBER_NAMES, CLASS_NAMES

if TYPE_CHECKING:
    from echodfkd.models.teachers.deeplabv3 import DeepLabV3
    from echodfkd.models.teachers.protocol import Teacher
    from echodfkd.models.teachers.torch_teacher import TorchTeacher

_Builder = TypeVar("_Builder")


def build_teacher(*, kind: str, weights: str, device: str, batch_frames: int, precision: str = "fp32") -> Teacher:
    """The teacher of this kind, ready to make soft masks.

    Args:
        kind: embedded, embedded_chambers or echonet_deeplabv3.
        weights: checkpoint file; "" takes the shipped weights where there are any.
        device: auto (cuda where there is one), cpu or cuda.
        batch_frames: frames in one forward pass.
        precision: fp32 or bf16.

    Raises:
        InputError: the weights cannot be used.
        ConfigError: no such kind, or cuda without a CUDA device.
    """
    build = _choose(_TEACHERS, kind, "teacher.kind")
    return build(weights, pick_device(device, "teacher.device"), batch_frames, precision)


def pick_device(device: str, option: str) -> str:
    """Resolve auto to cuda or cpu. Raises `ConfigError` where cuda is asked for and absent."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{option}: got cuda, but torch sees no CUDA device here; allowed are auto, cpu")
    return device


def _choose(builders: dict[str, _Builder], name: str, option: str) -> _Builder:
    if name not in builders:
        raise ConfigError(f"{option}: got {name!r}, allowed are {', '.join(builders)}")
    return builders[name]


def _embedded_teacher(weights: str, device: str, batch_frames: int, precision: str) -> Teacher:
    return _embedded("embedded", CLASS_NAMES, weights, device, batch_frames, precision)


def _chambers_teacher(weights: str, device: str, batch_frames: int, precision: str) -> Teacher:
    return _embedded("embedded_chambers", CHAMBER_NAMES, weights, device, batch_frames, precision)


def _embedded(
    name: str, class_names: tuple[str, ...], weights: str, device: str, batch_frames: int, precision: str
) -> Teacher:
    from echodfkd.models.teachers import unet
    from echodfkd.models.teachers.torch_teacher import PixelStatistics, TorchTeacher

    return TorchTeacher(
        unet.load_embedded_teacher(weights or None, num_classes=len(class_names) - 1),
        name=name,
        class_names=class_names,
        statistics=PixelStatistics(mean=unet.PIXEL_MEAN, std=unet.PIXEL_STD),
        input_size=None,
        device=device,
        batch_frames=batch_frames,
        precision=precision,
        channels_last=True,
    )


def _echonet_teacher(weights: str, device: str, batch_frames: int, precision: str) -> Teacher:
    from echodfkd.models.teachers import deeplabv3

    if not weights:
        raise InputError(
            "teacher.weights: teacher.kind=echonet_deeplabv3 needs the path of EchoNet-Dynamic's checkpoint"
            " deeplabv3_resnet50_random.pt, which does not ship with this package; got an empty path"
        )
    network = deeplabv3.load_echonet_checkpoint(weights)
    return echonet_teacher(network, device=device, batch_frames=batch_frames, precision=precision)


def echonet_teacher(network: DeepLabV3, *, device: str, batch_frames: int, precision: str = "fp32") -> TorchTeacher:
    """EchoNet-Dynamic's network with its pixel statistics, made ready to run: its batch norms are folded, in place."""
    from echodfkd.models.teachers import deeplabv3
    from echodfkd.models.teachers.torch_teacher import PixelStatistics, TorchTeacher, hash_weights

    weights_hash = hash_weights(network)  # of the weights as they were published
    return TorchTeacher(
        deeplabv3.fold_norms(network),
        name="echonet_deeplabv3",
        statistics=PixelStatistics(mean=deeplabv3.PIXEL_MEAN, std=deeplabv3.PIXEL_STD),
        input_size=deeplabv3.INPUT_SIZE,
        device=device,
        batch_frames=batch_frames,
        weights_hash=weights_hash,
        precision=precision,
        channels_last=True,
    )


_TEACHERS: dict[str, Callable[[str, str, int, str], Teacher]] = {
    "embedded": _embedded_teacher,
    "embedded_chambers": _chambers_teacher,
    "echonet_deeplabv3": _echonet_teacher,
}
