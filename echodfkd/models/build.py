"""One dictionary per kind of model: a name -> its builder, imported when it is used."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from echodfkd.errors import ConfigError, InputError
from echodfkd.records import CHAMBER_NAMES, CLASS_NAMES

if TYPE_CHECKING:
    from echodfkd.models.deeplabv3 import DeepLabV3
    from echodfkd.models.judge import Judge
    from echodfkd.models.teacher import Teacher
    from echodfkd.models.torch_teacher import TorchTeacher

_Builder = TypeVar("_Builder")

STUDENT_INPUT_MEAN = 32.5
STUDENT_INPUT_STD = 50.0
"""Grey statistics of EchoNet-Dynamic, rounded: its published RGB means are 32.1, 32.6, 33.4 and its deviations
50.1, 50.5, 51.3. The authors feed raw grey levels; centred inputs train faster at the same architecture."""


def build_student(
    *,
    blocks: int,
    layers: int,
    filters: int,
    norm: str,
    classes: Sequence[str] = ("LV",),
    tasks: Sequence[str] = (),
    recurrence: str = "convlstm",
    skips: bool = False,
    activation: str = "none",
    bidirectional: bool = False,
    input: str = "normalised",
    objective: Mapping[str, Any] | None = None,
    initial: str = "",
    initial_sha256: str = "",
) -> nn.Module:
    """A student (B, T, H, W) grey 0..255 -> LV logits (B, T, H, W); weights are drawn from torch's global generator.

    With more ``classes`` or with ``tasks`` it gives `echodfkd.models.heads.HeadOutputs`.

    Args:
        blocks: k, encoder blocks.
        layers: n, recurrent layers per block.
        filters: channels of the first block, doubled in each further one; 0 takes the largest widths
            (`matching.matched_widths`) whose parameter count does not exceed that of the authors' network of the
            same blocks and layers, both with one class and no task.
        norm: batch or group.
        classes: what it segments.
        tasks: phase, ef.
        recurrence: one of `recurrences.RECURRENCES`.
        skips: the decoder sees the encoder's features.
        activation: one of `convlstm.ACTIVATIONS`.
        bidirectional: half of each recurrent layer runs against time.
        input: normalised, or raw grey levels.
        objective: what training minimises does not shape the network; taken so that a student's config is all
            that this function needs.
        initial: likewise.
        initial_sha256: likewise.

    All but the first four have the authors' values where they are not given.
    """
    from echodfkd.models.convlstm import ConvLSTMStudent
    from echodfkd.models.heads import add_heads
    from echodfkd.models.matching import doubled_widths

    options: dict[str, Any] = {
        "layers": layers,
        "norm": norm,
        "recurrence": recurrence,
        "skips": skips,
        "activation": activation,
        "bidirectional": bidirectional,
    }
    widths = doubled_widths(blocks, filters) if filters else _matched_widths(blocks, **options)
    mean, std = (0.0, 1.0) if input == "raw" else (STUDENT_INPUT_MEAN, STUDENT_INPUT_STD)
    network = ConvLSTMStudent(widths=widths, input_mean=mean, input_std=std, **options)
    return add_heads(network, classes=classes, tasks=tasks)


@functools.lru_cache
def _matched_widths(blocks: int, **options: Any) -> tuple[int, ...]:
    """Widths of a student of these options at the weights of the authors' network. Draws no random number."""
    from echodfkd.models.convlstm import ConvLSTMStudent, count_parameters
    from echodfkd.models.matching import AUTHORS_FILTERS, doubled_widths, matched_widths

    authors = {"norm": "batch", "recurrence": "convlstm", "skips": False, "activation": "none", "bidirectional": False}

    def count(widths: Sequence[int], options: Mapping[str, Any] = options) -> int:
        with torch.device("meta"):
            return count_parameters(ConvLSTMStudent(widths=widths, input_mean=0.0, input_std=1.0, **options))

    most = count(doubled_widths(blocks, AUTHORS_FILTERS), {**authors, "layers": options["layers"]})
    halved = options["bidirectional"] and options["recurrence"] != "shift"
    return matched_widths(count, blocks=blocks, most=most, even=halved)


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


def load_judge(
    name: str,
    *,
    weights: str = "",
    device: str = "cpu",
    prompts: Mapping[str, Any] | None = None,
    phase_sign: int = -1,
    precision: str = "auto",
    captions: str = "",
) -> Judge | None:
    """The auxiliary model that scores masks without truth; None for "none".

    Args:
        name: embedded, echoclip or none.
        weights: echoclip: a folder, an ``hf-hub:`` name, or "" for the published one.
        device: cpu or cuda.
        prompts: the fields of `echodfkd.config_judge.JudgePromptsConfig`; None takes the published ones.
        phase_sign: see `echodfkd.models.judge_reading.valve_cycle`.
        precision: echoclip: auto, fp32 or bf16.
        captions: echoclip: folder or URL that keeps embedded prompts (`echodfkd.models.captions`); "" keeps none.

    Raises:
        InputError: the judge's weights cannot be used, or a package that it needs is not installed.
        ConfigError: no such judge.
    """
    from echodfkd.config_judge import JudgePromptsConfig

    asked = {**asdict(JudgePromptsConfig()), **(prompts or {})}
    options = {"phase_sign": phase_sign, "precision": precision, "captions": captions}
    return _choose(_JUDGES, name, "evaluation.judge")(weights, device, asked, options)


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
    from echodfkd.models import unet
    from echodfkd.models.torch_teacher import PixelStatistics, TorchTeacher

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
    from echodfkd.models import deeplabv3

    if not weights:
        raise InputError(
            "teacher.weights: teacher.kind=echonet_deeplabv3 needs the path of EchoNet-Dynamic's checkpoint"
            " deeplabv3_resnet50_random.pt, which does not ship with this package; got an empty path"
        )
    network = deeplabv3.load_echonet_checkpoint(weights)
    return echonet_teacher(network, device=device, batch_frames=batch_frames, precision=precision)


def echonet_teacher(network: DeepLabV3, *, device: str, batch_frames: int, precision: str = "fp32") -> TorchTeacher:
    """EchoNet-Dynamic's network with its pixel statistics, made ready to run: its batch norms are folded, in place."""
    from echodfkd.models import deeplabv3
    from echodfkd.models.torch_teacher import PixelStatistics, TorchTeacher, hash_weights

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


def _embedded_judge(weights: str, device: str, prompts: dict[str, Any], options: dict[str, Any]) -> Judge:
    """Runs on the CPU whatever the device."""
    from echodfkd.models.embedded_judge import embedded_judge, read_towers

    return embedded_judge(read_towers(), prompts=prompts, phase_sign=options["phase_sign"])


def _echoclip_judge(weights: str, device: str, prompts: dict[str, Any], options: dict[str, Any]) -> Judge:
    from echodfkd.models.captions import CaptionStore
    from echodfkd.models.echoclip import load_towers
    from echodfkd.models.judge_reading import ReadingJudge
    from echodfkd.models.torch_teacher import hash_weights

    towers = load_towers(weights, device, precision=options["precision"])
    judge_id = f"echoclip-{hash_weights(towers)}"
    if options["captions"]:
        towers.captions = CaptionStore(options["captions"], judge_id)
    judge = ReadingJudge(towers, judge_id=judge_id, prompts=prompts, phase_sign=options["phase_sign"])
    towers.drop_text_tower()
    return judge


_TEACHERS: dict[str, Callable[[str, str, int, str], Teacher]] = {
    "embedded": _embedded_teacher,
    "embedded_chambers": _chambers_teacher,
    "echonet_deeplabv3": _echonet_teacher,
}

_JUDGES: dict[str, Callable[[str, str, dict[str, Any], dict[str, Any]], Judge | None]] = {
    "embedded": _embedded_judge,
    "echoclip": _echoclip_judge,
    "none": lambda weights, device, prompts, options: None,
}
