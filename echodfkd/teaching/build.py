"""Build the teacher that a config names. Runs, evaluation and reports all build theirs here."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable

import numpy as np

from echodfkd.config.rules.teacher import NETWORK_KINDS, check_classes, class_map
from echodfkd.config.sections.teacher import TeacherConfig, TeacherModelConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.core.precision import AUTO, PRECISIONS, TEACHER_PRECISIONS, faster, seconds_in_turn
from echodfkd.models.teachers.build import build_teacher, pick_device
from echodfkd.models.teachers.library_networks import smp_network, torchvision_network
from echodfkd.models.teachers.monai_bundle import MonaiNetwork
from echodfkd.models.teachers.network_spec import NetworkLayout, NetworkSpec, PixelStatistics
from echodfkd.models.teachers.protocol import Teacher
from echodfkd.models.teachers.python_file import PythonNetwork
from echodfkd.models.teachers.teacher_features import FeatureTeacher
from echodfkd.models.teachers.teacher_files import (
    ExportedNetwork,
    ForeignNetwork,
    OnnxNetwork,
    onnx_device,
    read_pinned,
)
from echodfkd.models.teachers.torch_teacher import TorchTeacher
from echodfkd.teaching.cache import CachedTeacher
from echodfkd.teaching.ensemble import Ensemble, Member
from echodfkd.teaching.frame_memory import FrameMemory
from echodfkd.teaching.labels import LabelTeacher
from echodfkd.teaching.members import Fusion, MemberRule
from echodfkd.teaching.network_probe import check_network
from echodfkd.teaching.plausible import PlausibleTeacher
from echodfkd.teaching.recorded import Placement, RecordedMasks
from echodfkd.teaching.reference import check_reference, find_reference
from echodfkd.teaching.remote.client import RemoteTeacher
from echodfkd.teaching.remote.service import read_token

TIMED_CLIPS = 4


def build_configured_teacher(
    config: TeacherConfig, *, device: str, placement: Placement | None = None, window: WindowConfig | None = None
) -> Teacher:
    """The teacher of a config, checked against its stored reference, with its cache; or its ensemble.

    Args:
        config: checked by `check_teacher`.
        device: auto, cpu or cuda.
        placement: places clips in recorded videos, for masks that were made of whole videos; None if there are none.
        window: of the clips that it will be shown; None for the default. A network from a file is shown frames of
            this size at once.

    Raises:
        InputError: a file cannot be used, a network gives another output than the config says, or a teacher does not
            give the mask stored for it.
        ConfigError: the device or the network's name does not exist.
    """
    if config.kind != "ensemble":
        return _kept(_build_one(config, device, placement, window, stray_limit=config.stray_limit), config)
    members = [build_member(config, name, device, placement, window) for name in config.members]
    ensemble = Ensemble(members, method=config.fusion, code=config.mask_code, route=config.route)
    _check(ensemble, config)
    return ensemble


def build_member(
    config: TeacherConfig, name: str, device: str, placement: Placement | None, window: WindowConfig | None
) -> Member:
    """One member of an ensemble, checked against its own stored reference, with the cache. Raises as above."""
    model = config.members[name]
    try:
        teacher = _build_one(model, device, placement, window)
    except (InputError, ConfigError) as error:
        raise type(error)(f"teacher.members.{name}: {error}") from error
    # each member's masks are kept, not the fused ones: other weights or another fusion go on with the same entries, and
    # a member that was once left out of a clip is asked again
    teacher = teacher if model.kind == "recorded" else _kept(teacher, config)
    return Member(name, teacher, model.weight, model.required)


def configured_fusion(config: TeacherConfig) -> Fusion:
    """How the members of the ensemble that the config names are fused."""
    rules = tuple(MemberRule(name, one.weight, one.required) for name, one in config.members.items())
    return Fusion(config.fusion, rules, config.mask_code, config.route)


def with_features(teacher: Teacher, config: TeacherConfig, shape: tuple[int, int, int], size: int) -> FeatureTeacher:
    """The teacher of `build_configured_teacher` with the features of teacher.feature_layer in its output.

    Raises:
        ConfigError: the layer does not exist or is unfit, see `FeatureTeacher`.
    """
    assert isinstance(teacher, TorchTeacher), "check_config: teacher.feature_layer"
    return FeatureTeacher(teacher, layer=config.feature_layer, shape=shape, size=size)


def _kept(teacher: Teacher, config: TeacherConfig) -> Teacher:
    """The teacher behind a memory of frames and a cache of windows, if the config asks for them."""
    if config.frame_memory_mb and teacher.sees_frames:
        teacher = FrameMemory(teacher, config.frame_memory_mb)
    return CachedTeacher(teacher, config.cache, config.mask_code) if config.cache else teacher


def _build_one(
    model: TeacherModelConfig,
    device: str,
    placement: Placement | None,
    window: WindowConfig | None,
    *,
    stray_limit: float = 1.0,
) -> Teacher:
    if model.precision == AUTO:
        seconds = teacher_seconds(model, device=device, window=window or WindowConfig())
        model = dataclasses.replace(model, precision=faster(seconds))
    teacher = BUILDERS[model.kind](model, device, placement)
    if model.kind in NETWORK_KINDS:
        assert isinstance(teacher, TorchTeacher)
        shown = window or WindowConfig()
        check_network(teacher, frames=shown.frames, size=shown.size)
    if model.kind != "recorded":
        _check(teacher, model)
    return PlausibleTeacher(teacher, stray_limit) if model.plausible else teacher


def teacher_seconds(model: TeacherModelConfig, *, device: str, window: WindowConfig) -> dict[str, float]:
    """Seconds of a pass in each precision, over as many clips as it holds, at most `TIMED_CLIPS`. Raises as above."""
    count = max(1, min(model.batch_frames // window.frames, TIMED_CLIPS))
    clips = np.random.default_rng(0).integers(0, 256, (count, window.frames, window.size, window.size), dtype=np.uint8)
    names = PRECISIONS if pick_device(device, "teacher.device") == "cpu" else TEACHER_PRECISIONS
    built = {name: BUILDERS[model.kind](dataclasses.replace(model, precision=name), device, None) for name in names}
    built = {
        name: teacher for name, teacher in built.items() if not teacher.teach(clips).faults
    }  # fp16 overflows early
    return seconds_in_turn({name: functools.partial(teacher.teach, clips) for name, teacher in built.items()})


def _shipped_teacher(model: TeacherModelConfig, device: str, placement: Placement | None) -> Teacher:
    """A network that this package defines."""
    return build_teacher(
        kind=model.kind,
        weights=model.weights,
        device=device,
        batch_frames=model.batch_frames,
        precision=model.precision,
    )


def _recorded_teacher(model: TeacherModelConfig, device: str, placement: Placement | None) -> Teacher:
    channels, class_names = class_map(model)
    return RecordedMasks(
        model.weights,
        source_classes=tuple(model.outputs),
        channels=channels,
        class_names=class_names,
        place=placement,
    )


def _label_teacher(model: TeacherModelConfig, device: str, placement: Placement | None) -> Teacher:
    if placement is None:
        raise ConfigError(
            "teacher.kind: labels are those of a run's own clips, and this command has none; name a model"
        )
    return LabelTeacher(placement.clip)


def _remote_teacher(model: TeacherModelConfig, device: str, placement: Placement | None) -> Teacher:
    return RemoteTeacher(model.remote, read_token(model.remote.token_file, "teacher.remote.token_file"))


def _check(teacher: Teacher, model: TeacherModelConfig) -> None:
    reference = find_reference(model.reference, model.weights)
    if reference:
        check_reference(teacher, reference, tolerance=model.reference_tolerance)


def _network_teacher(model: TeacherModelConfig, device: str, placement: Placement | None) -> Teacher:
    """A network from a file. Its id covers the file and all options of its input and output."""
    device = pick_device(onnx_device(device) if model.kind == "onnx" else device, "teacher.device")
    network = _open_network(model, device)
    if isinstance(network, MonaiNetwork):
        model = _with_bundle_outputs(model, network)
    channels, class_names = class_map(model)
    layout = NetworkLayout(
        axes=model.layout,
        window_frames=model.window_frames,
        activation=model.activation,
        channels=channels,
        fixed_batch=_check_input(model, network.input_shape),
        num_channels=len(model.outputs),
    )
    statistics = PixelStatistics(tuple(model.pixel_mean), tuple(model.pixel_std), model.normalise)
    facts = f"{network.weights_hash}|{statistics}|{model.input_size}|{layout}|{class_names}|{model.output}"
    facts += "" if model.normalise == "fixed" else f"|{model.normalise}"
    spec = NetworkSpec(
        model.kind if model.kind == "python" else model.network or model.kind,
        statistics,
        input_size=model.input_size or None,
        class_names=class_names,
        layout=layout,
        weights_hash=hashlib.sha256(facts.encode()).hexdigest()[:8],
        channels_last=model.kind in ("torchvision", "smp"),
    )
    return TorchTeacher(network, spec, device=device, batch_frames=model.batch_frames, precision=model.precision)


def _open_network(model: TeacherModelConfig, device: str) -> ForeignNetwork:
    where = model.weights
    if model.kind == "monai_bundle":
        return MonaiNetwork(where, sha256=model.sha256, output=model.output)
    data, count = read_pinned(where, model.sha256), len(model.outputs)
    if model.kind == "onnx":
        return OnnxNetwork(data, where=where, device=device, output=model.output)
    if model.kind == "exported":
        return ExportedNetwork(data, sha256=model.sha256, where=where, device=device, output=model.output)
    if model.kind == "python":
        return PythonNetwork(where, data, function=model.network, output=model.output)
    if model.kind == "torchvision":
        return torchvision_network(model.network, data, where=where, num_channels=count)
    channels = len(model.pixel_mean)
    return smp_network(model.network, model.encoder, data, where=where, in_channels=channels, num_channels=count)


def _with_bundle_outputs(model: TeacherModelConfig, network: MonaiNetwork) -> TeacherModelConfig:
    """The config with the names of the bundle's channels if it gives none itself. Raises `InputError`."""
    names, count = model.outputs or list(network.channel_names), network.definition.out_channels
    if len(names) != count:
        told = "its metadata names none"
        if network.channel_names:
            told = f"{', '.join(network.channel_names)} by its metadata, which outputs: [] takes"
        raise InputError(
            f"teacher.outputs: got {', '.join(model.outputs) or 'none'}, but the network in {model.weights} gives"
            f" {count} channels ({told})"
        )
    model = dataclasses.replace(model, outputs=names)
    check_classes("teacher", model)
    return model


def _check_input(model: TeacherModelConfig, shape: tuple[int | None, ...] | None) -> int | None:
    """Check the options against the input that a file declares. Returns the batch size that it insists on, or None.

    Raises:
        InputError: another number of axes or channels, another size, or another number of frames at once.
    """
    if shape is None:
        return None
    wanted: dict[str, int | None] = {"C": len(model.pixel_mean), "T": model.window_frames or None}
    wanted |= {"H": model.input_size or None, "W": model.input_size or None}
    options = {"C": "pixel_mean", "T": "window_frames", "H": "input_size", "W": "input_size"}
    declared = "[" + ", ".join("any" if side is None else str(side) for side in shape) + "]"
    if len(shape) != len(model.layout):
        raise InputError(f"teacher.layout: got {model.layout}, but the input of {model.weights} is {declared}")
    sides = dict(zip(model.layout, shape, strict=True))
    for axis, option in options.items():
        side = sides.get(axis)
        if side is not None and wanted[axis] != side:
            raise InputError(
                f"teacher.{option}: {model.weights} takes {declared} ({model.layout}), which needs {axis} = {side};"
                f" the option stands for {wanted[axis] or 'the size of the clip'}"
                + ("" if option == "pixel_mean" else f"; set teacher.{option}={side}")
            )
    return sides["N"]


BUILDERS: dict[str, Callable[[TeacherModelConfig, str, Placement | None], Teacher]] = {
    **dict.fromkeys(("embedded", "embedded_chambers", "embedded_wild", "echonet_deeplabv3"), _shipped_teacher),
    **dict.fromkeys(NETWORK_KINDS, _network_teacher),
    "recorded": _recorded_teacher,
    "labels": _label_teacher,
    "remote": _remote_teacher,
}
"""(model, device, placement) -> teacher, by kind; an ensemble is built of these."""
