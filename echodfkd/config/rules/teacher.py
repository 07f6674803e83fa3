"""Checks of `teacher`: an option that its kind does not read is refused."""

from __future__ import annotations

import dataclasses
import re

from echodfkd.config.rules.pool import check_pool
from echodfkd.config.rules.remote import check_remotes
from echodfkd.config.rules.route import check_route
from echodfkd.config.rules.sees import check_sees
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.limited import LimitedConfig
from echodfkd.config.sections.option import NO_DEVICE
from echodfkd.config.sections.pool import PoolConfig
from echodfkd.config.sections.teacher import (
    BY_CLIP,
    ENSEMBLE,
    KINDS,
    MemberConfig,
    TeacherConfig,
    TeacherModelConfig,
)
from echodfkd.core.errors import ConfigError
from echodfkd.core.mask_codes import LOGIT, PROBABILITY

_POOL_OPTIONS = tuple(field.name for field in dataclasses.fields(PoolConfig))
EXAMPLES = {"torchvision": {"network": "deeplabv3_resnet50"}, "smp": {"network": "unet", "encoder": "resnet34"}}
NETWORK_KINDS = ("onnx", "exported", "python", "torchvision", "smp", "monai_bundle")
"""Kinds whose network's input and output are described by options."""
STORED_KINDS = ("recorded", "remote")
"""Kinds whose masks were rounded to 1/255 before they reach a run."""
MAX_CHANNELS = 64


def check_teacher(config: RunConfig) -> None:
    """Refuse a teacher that cannot work, also among those of a study or to be made. Raises `ConfigError`."""
    study = {f"study.teachers.{name}": teacher for name, teacher in config.study.teachers.items()}
    for option in study:
        _check_name(option, option.removeprefix("study.teachers."))
    for option, teacher in {"teacher": config.teacher, **study}.items():
        _check_teacher(option, teacher)
        check_sees(option, teacher, config)
        check_route(option, teacher, config)
        check_remotes(option, teacher, no_progress_s=config.data.no_progress_timeout_s)
    check_limited(config.limited)


def _check_teacher(option: str, teacher: TeacherConfig) -> None:
    _check_model(option, teacher)
    for where, pool in teacher.actor_pools.items():
        check_pool(where.replace("teacher", option, 1), pool)
    if teacher.kind == "ensemble":
        if len(teacher.members) < 2:
            raise ConfigError(f"{option}.members: an ensemble has at least two, e.g. {option}.members.a.kind=embedded")
        for where, member in _members_of(option, teacher).items():
            _check_member(where, where.rpartition(".")[2], member)
            if teacher.pools == "one":
                _refuse_pool(where, member)
    models: dict[str, TeacherModelConfig] = {option: teacher, **_members_of(option, teacher)}
    if teacher.mask_code == LOGIT:
        for where, model in models.items():
            if model.kind in STORED_KINDS:
                raise ConfigError(
                    f"{option}.mask_code: got {LOGIT!r}, but {where}.kind is {model.kind}, whose masks come in steps of"
                    f" 1/255; {PROBABILITY} keeps them as they are"
                )
    if teacher.cache and teacher.kind in BY_CLIP:
        raise ConfigError(
            f"{option}.cache: has no use if {option}.kind is {teacher.kind}, whose masks are found by clip"
        )
    _check_memory(option, teacher, models)
    _check_compile(option, teacher, teacher)


def _check_memory(option: str, teacher: TeacherConfig, models: dict[str, TeacherModelConfig]) -> None:
    """``models``: the teacher and its members by option."""
    if teacher.frame_memory_mb and teacher.feature_layer:
        raise ConfigError(f"{option}.frame_memory_mb: remembers only masks, but {option}.feature_layer is set")
    ones = [one for one in models.values() if one.kind != "ensemble"]
    if teacher.frame_memory_mb and not any(_remembers_frames(one) for one in ones):
        raise ConfigError(
            f"{option}.frame_memory_mb: has no use here, because no teacher is a network that sees a frame at a time"
            f" ({option}.kind, .layout, .normalise, .plausible)"
        )


def _remembers_frames(model: TeacherModelConfig) -> bool:
    """Whether a frame's mask is made here and depends only on that frame."""
    by_frame = model.layout == "NCHW" and model.normalise != "clip" and not model.plausible
    return model.kind not in STORED_KINDS and by_frame


def _members_of(option: str, teacher: TeacherConfig) -> dict[str, MemberConfig]:
    return {f"{option}.members.{name}": member for name, member in teacher.members.items()}


def _check_member(option: str, name: str, member: MemberConfig) -> None:
    _check_name(option, name)
    if member.kind == "ensemble":
        raise ConfigError(f"{option}.kind: got 'ensemble', a member is a single teacher")
    _check_model(option, member)
    _check_compile(option, member, member)


def _check_name(option: str, name: str) -> None:
    if not re.fullmatch(NO_DEVICE + r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", name):
        raise ConfigError(f"{option}: a teacher's name may hold up to 100 letters, digits, '_', '-'; not CON, NUL ...")


def _check_compile(option: str, pool: PoolConfig, model: TeacherModelConfig) -> None:
    """Only a network that is built here can be compiled."""
    allowed = [kind for kind, read in KINDS.items() if "precision" in read]
    if pool.compile and model.kind not in allowed:
        raise ConfigError(
            f"{option}.compile: has no effect if {option}.kind is {model.kind}; remove it, it is for"
            f" {', '.join(allowed)}"
        )


def _refuse_pool(option: str, member: MemberConfig) -> None:
    for key in _POOL_OPTIONS:
        if getattr(member, key) != getattr(MemberConfig(), key):
            raise ConfigError(
                f"{option}.{key}: got {getattr(member, key)}, but teacher.pools is one, so that all members share the"
                f" actors of teacher.{key}; set teacher.pools=each for an actor pool per member"
            )


def class_map(model: TeacherModelConfig) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Output channels that are taught, and our names of them, background first among the names."""
    wanted = model.classes or {name: name for name in model.outputs}
    chosen = [(place, wanted[name]) for place, name in enumerate(model.outputs) if name in wanted]
    chosen = [(place, name) for place, name in chosen if name != "background"]
    return tuple(place for place, _ in chosen), ("background", *(name for _, name in chosen))


def _check_model(option: str, model: TeacherModelConfig) -> None:
    read = KINDS[model.kind]
    plain = type(model)()
    known = {field.name for field in dataclasses.fields(TeacherModelConfig)} | set(ENSEMBLE)
    for field in dataclasses.fields(model):
        idle = field.name in known and field.name not in ("kind", *read)
        if idle and getattr(model, field.name) != getattr(plain, field.name):
            raise ConfigError(
                f"{option}.{field.name}: has no effect if {option}.kind is {model.kind}; remove it, that kind reads"
                f" {', '.join(read)}"
            )
    if "weights" in read and not model.weights and not model.kind.startswith("embedded"):
        what = {"recorded": "the folder of masks", "python": "the Python file"}.get(model.kind, "its checkpoint file")
        raise ConfigError(f"{option}.weights: empty, but {option}.kind is {model.kind}; name {what}")
    if model.kind in NETWORK_KINDS:
        _check_network(option, model)
    if "outputs" in read and (model.outputs or model.kind != "monai_bundle"):
        check_classes(option, model)


def _check_network(option: str, model: TeacherModelConfig) -> None:
    if model.kind == "exported" and not model.sha256:
        raise ConfigError(
            f"{option}.sha256: empty, but {option}.kind is exported, whose loader can run code that the file holds;"
            " give the sha256 of a file that you trust (sha256sum FILE)"
        )
    for name, example in EXAMPLES.get(model.kind, {}).items():
        if not getattr(model, name):
            raise ConfigError(f"{option}.{name}: empty, but {option}.kind is {model.kind}; e.g. {example}")
    channels = len(model.pixel_mean)
    if not 1 <= channels <= MAX_CHANNELS or len(model.pixel_std) != channels:
        raise ConfigError(
            f"{option}.pixel_mean: got {channels} numbers and {len(model.pixel_std)} in {option}.pixel_std; expected"
            " the same number of both, one per input channel, in grey levels 0..255"
        )
    if model.normalise == "fixed" and min(model.pixel_std) < 1:
        raise ConfigError(
            f"{option}.pixel_std: got {min(model.pixel_std):g}, expected at least 1, in grey levels 0..255; multiply"
            f" {option}.pixel_mean and {option}.pixel_std by 255 if they are those of pixels in 0..1"
        )
    if model.window_frames and model.layout == "NCHW":
        raise ConfigError(f"{option}.window_frames: has no effect if {option}.layout is NCHW, a frame at a time")


def check_classes(option: str, model: TeacherModelConfig) -> None:
    """Refuse outputs and classes that do not fit each other. Raises `ConfigError`."""
    if not model.outputs or len(set(model.outputs)) < len(model.outputs):
        raise ConfigError(f"{option}.outputs: got {', '.join(model.outputs) or 'none'}, expected different names")
    if unknown := [name for name in model.classes if name not in model.outputs]:
        raise ConfigError(f"{option}.classes: {unknown[0]!r} is none of {option}.outputs ({', '.join(model.outputs)})")
    if model.activation == "softmax" and len(model.outputs) == 1:
        raise ConfigError(
            f"{option}.activation: got softmax with the one channel {model.outputs[0]}, of which it makes 1 everywhere;"
            f" name every channel in {option}.outputs, the background too, or set it to sigmoid"
        )
    ours = class_map(model)[1][1:]
    for name in ours:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ConfigError(f"{option}.classes: got {name!r}, a name of ours may hold letters, digits and '_'")
    if not ours or len(set(ours)) < len(ours):
        raise ConfigError(
            f"{option}.classes: {', '.join(ours) or 'no class'} is left; expected at least one, each under a name of"
            " its own"
        )


def check_limited(limited: LimitedConfig) -> None:
    """Refuse sites that are not different. Raises `ConfigError`."""
    if len(limited.sites) < 2 or len(set(limited.sites)) < len(limited.sites):
        got = ", ".join(limited.sites) or "none"
        raise ConfigError(f"limited.sites: got {got}; expected two or more different scanners of the phantom")
