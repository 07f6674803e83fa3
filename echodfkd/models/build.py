"""One dictionary per kind of model: a name -> its builder, imported when it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from echodfkd.errors import ConfigError, InputError

if TYPE_CHECKING:
    from echodfkd.models.judge import Judge
    from echodfkd.models.teacher import Teacher

_Builder = TypeVar("_Builder")

STUDENT_INPUT_MEAN = 32.5
STUDENT_INPUT_STD = 50.0
"""Grey statistics of EchoNet-Dynamic, rounded: its published RGB means are 32.1, 32.6, 33.4 and its deviations
50.1, 50.5, 51.3. The authors feed raw grey levels; centred inputs train faster at the same architecture."""


def build_student(*, blocks: int, layers: int, filters: int, norm: str) -> nn.Module:
    """A student (B, T, H, W) grey 0..255 -> LV logits (B, T, H, W); weights are drawn from torch's global generator."""
    from echodfkd.models.convlstm import ConvLSTMStudent

    return ConvLSTMStudent(
        blocks=blocks,
        layers=layers,
        filters=filters,
        norm=norm,
        input_mean=STUDENT_INPUT_MEAN,
        input_std=STUDENT_INPUT_STD,
    )


def build_teacher(*, kind: str, weights: str, device: str, batch_frames: int) -> Teacher:
    """The teacher of this kind, ready to make soft masks.

    Args:
        kind: embedded or echonet_deeplabv3.
        weights: checkpoint file; "" takes the shipped weights where there are any.
        device: auto (cuda where there is one), cpu or cuda.
        batch_frames: frames in one forward pass.

    Raises:
        InputError: the weights cannot be used.
        ConfigError: no such kind, or cuda without a CUDA device.
    """
    return _choose(_TEACHERS, kind, "teacher.kind")(weights, pick_device(device, "teacher.device"), batch_frames)


def load_judge(name: str) -> Judge | None:
    """The auxiliary model that scores masks without truth; None for "none".

    Raises:
        InputError: the judge's weights cannot be used.
        ConfigError: no such judge.
    """
    return _choose(_JUDGES, name, "evaluation.judge")()


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


def _embedded_teacher(weights: str, device: str, batch_frames: int) -> Teacher:
    from echodfkd.models import unet
    from echodfkd.models.teacher import PixelStatistics, TorchTeacher

    return TorchTeacher(
        unet.load_embedded_teacher(weights or None),
        name="embedded",
        statistics=PixelStatistics(mean=unet.PIXEL_MEAN, std=unet.PIXEL_STD),
        input_size=None,
        device=device,
        batch_frames=batch_frames,
    )


def _echonet_teacher(weights: str, device: str, batch_frames: int) -> Teacher:
    from echodfkd.models import deeplabv3
    from echodfkd.models.teacher import PixelStatistics, TorchTeacher

    if not weights:
        raise InputError(
            "teacher.weights: teacher.kind=echonet_deeplabv3 needs the path of EchoNet-Dynamic's checkpoint"
            " deeplabv3_resnet50_random.pt, which does not ship with this package; got an empty path"
        )
    return TorchTeacher(
        deeplabv3.load_echonet_checkpoint(weights),
        name="echonet_deeplabv3",
        statistics=PixelStatistics(mean=deeplabv3.PIXEL_MEAN, std=deeplabv3.PIXEL_STD),
        input_size=deeplabv3.INPUT_SIZE,
        device=device,
        batch_frames=batch_frames,
    )


def _embedded_judge() -> Judge:
    from echodfkd.models.judge import load_embedded_judge

    return load_embedded_judge()


_TEACHERS: dict[str, Callable[[str, str, int], Teacher]] = {
    "embedded": _embedded_teacher,
    "echonet_deeplabv3": _echonet_teacher,
}

_JUDGES: dict[str, Callable[[], Judge | None]] = {"embedded": _embedded_judge, "none": lambda: None}
