"""Checks of which model teaches: every option of a teacher means something to its kind, or is refused."""

from __future__ import annotations

import dataclasses
import math
import re

from echodfkd.config.rules.remote import check_remotes
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.limited import FUSIONS, LimitedConfig
from echodfkd.config.sections.teacher import MemberConfig, TeacherConfig, TeacherModelConfig, TeacherPoolConfig
from echodfkd.core.errors import ConfigError
from echodfkd.core.mask_codes import LOGIT, MASK_CODES, PROBABILITY

_PIXELS = ("batch_frames", "pixel_mean", "pixel_std", "normalise", "input_size", "activation", "outputs", "classes")
_ENSEMBLE = ("members", "fusion", "pools", "confidence")
_REFERENCE = ("reference", "reference_tolerance")
_FILE = ("weights", "sha256", "layout", "window_frames", "output", *_PIXELS, *_REFERENCE)

KINDS: dict[str, tuple[str, ...]] = {
    "embedded": ("weights", "batch_frames", "precision", *_REFERENCE),
    "embedded_chambers": ("weights", "batch_frames", "precision", *_REFERENCE),
    "echonet_deeplabv3": ("weights", "batch_frames", "precision", *_REFERENCE),
    "onnx": _FILE,
    "exported": _FILE,
    "torchvision": ("weights", "sha256", "network", "precision", *_PIXELS, *_REFERENCE),
    "smp": ("weights", "sha256", "network", "encoder", "precision", *_PIXELS, *_REFERENCE),
    "monai_bundle": ("weights", "sha256", *_PIXELS, *_REFERENCE),
    "recorded": ("weights", "outputs", "classes"),
    "remote": ("remote", *_REFERENCE),
    "ensemble": (*_ENSEMBLE, *_REFERENCE),
}
"""What each kind reads of the options in `TeacherModelConfig` (and of those of an ensemble)."""

POOLS = ("one", "each")
DEVICES = ("auto", "cpu", "cuda")
_POOL_OPTIONS = tuple(field.name for field in dataclasses.fields(TeacherPoolConfig))
EXAMPLES = {"torchvision": {"network": "deeplabv3_resnet50"}, "smp": {"network": "unet", "encoder": "resnet34"}}
LAYOUTS = ("NCHW", "NCTHW", "NTCHW")
PRECISIONS = ("fp32", "bf16")
NORMALISATIONS = ("fixed", "frame", "clip")
NETWORK_KINDS = ("onnx", "exported", "torchvision", "smp", "monai_bundle")
"""Kinds that are told what their network takes and gives."""
STORED_KINDS = ("recorded", "remote")
"""Kinds whose masks were rounded to 1/255 before they reach a run."""
ACTIVATIONS = ("sigmoid", "softmax", "none")
MAX_CHANNELS = 64


def check_teacher(config: RunConfig) -> None:
    """Refuse a teacher that cannot work, also among those of a study or to be made. Raises `ConfigError`."""
    study = {f"study.teachers.{name}": teacher for name, teacher in config.study.teachers.items()}
    for option in study:
        _check_name(option, option.removeprefix("study.teachers."))
    for option, teacher in {"teacher": config.teacher, **study}.items():
        _check_teacher(option, teacher)
        check_remotes(option, teacher, no_progress_s=config.data.no_progress_timeout_s)
    check_limited(config.limited)


def _check_teacher(option: str, teacher: TeacherConfig) -> None:
    _check_model(option, teacher)
    if teacher.pools not in POOLS:
        raise ConfigError(f"{option}.pools: got {teacher.pools!r}, allowed are {', '.join(POOLS)}")
    for where, pool in teacher.actor_pools.items():
        _check_pool(where.replace("teacher", option, 1), pool)
    if teacher.kind == "ensemble":
        if len(teacher.members) < 2:
            raise ConfigError(f"{option}.members: an ensemble has at least two, e.g. {option}.members.a.kind=embedded")
        for where, member in _members_of(option, teacher).items():
            _check_member(where, where.rpartition(".")[2], member)
            if teacher.pools == "one":
                _refuse_pool(where, member)
    if teacher.fusion not in FUSIONS:
        raise ConfigError(f"{option}.fusion: got {teacher.fusion!r}, allowed are {', '.join(FUSIONS)}")
    if teacher.mask_code not in MASK_CODES:
        raise ConfigError(f"{option}.mask_code: got {teacher.mask_code!r}, allowed are {', '.join(MASK_CODES)}")
    models: dict[str, TeacherModelConfig] = {option: teacher, **_members_of(option, teacher)}
    if teacher.mask_code == LOGIT:
        for where, model in models.items():
            if model.kind in STORED_KINDS:
                raise ConfigError(
                    f"{option}.mask_code: got {LOGIT!r}, but {where}.kind is {model.kind}, whose masks come in steps of"
                    f" 1/255; {PROBABILITY} keeps them as they are"
                )
    if teacher.cache and teacher.kind == "recorded":
        raise ConfigError(f"{option}.cache: has no use where {option}.kind is recorded, whose masks are stored already")
    _check_memory(option, teacher, models)
    _check_compile(option, teacher, teacher)


def _check_memory(option: str, teacher: TeacherConfig, models: dict[str, TeacherModelConfig]) -> None:
    """``models``: the teacher and its members by option."""
    if teacher.frame_memory_mb < 0:
        raise ConfigError(f"{option}.frame_memory_mb: got {teacher.frame_memory_mb}, must be at least 0")
    if teacher.frame_memory_mb and teacher.feature_layer:
        raise ConfigError(f"{option}.frame_memory_mb: remembers masks alone, and {option}.feature_layer is set")
    ones = [one for one in models.values() if one.kind != "ensemble"]
    if teacher.frame_memory_mb and not any(_remembers_frames(one) for one in ones):
        raise ConfigError(
            f"{option}.frame_memory_mb: has no use here, where no teacher is a network that sees a frame at a time"
            f" ({option}.kind, .layout, .normalise)"
        )


def _remembers_frames(model: TeacherModelConfig) -> bool:
    """Whether a frame's mask is made here, of that frame alone."""
    return model.kind not in STORED_KINDS and model.layout == "NCHW" and model.normalise != "clip"


def _members_of(option: str, teacher: TeacherConfig) -> dict[str, MemberConfig]:
    return {f"{option}.members.{name}": member for name, member in teacher.members.items()}


def _check_member(option: str, name: str, member: MemberConfig) -> None:
    _check_name(option, name)
    if member.kind == "ensemble":
        raise ConfigError(f"{option}.kind: got 'ensemble', a member is a single teacher")
    if not (math.isfinite(member.weight) and member.weight > 0):
        raise ConfigError(f"{option}.weight: got {member.weight:g}, must be above 0")
    _check_model(option, member)
    _check_compile(option, member, member)


def _check_name(option: str, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", name):
        raise ConfigError(f"{option}: a teacher's name may hold up to 100 letters, digits, '_' and '-'")


def _check_pool(option: str, pool: TeacherPoolConfig) -> None:
    if pool.device not in DEVICES:
        raise ConfigError(f"{option}.device: got {pool.device!r}, allowed are {', '.join(DEVICES)}")
    for key, least in {"min_actors": 1, "num_cpus": 0, "num_gpus": 0, "timeout_s": 0}.items():
        if not getattr(pool, key) >= least:
            raise ConfigError(f"{option}.{key}: got {getattr(pool, key)}, must be at least {least:g}")
    if pool.max_actors < pool.min_actors:
        raise ConfigError(
            f"{option}.max_actors: got {pool.max_actors}, must be at least {option}.min_actors ({pool.min_actors})"
        )
    if pool.node_label and not re.fullmatch(r"[^=\s]+=[^=\s]+", pool.node_label):
        raise ConfigError(f"{option}.node_label: got {pool.node_label!r}, expected key=value, e.g. pool=teacher")


def _check_compile(option: str, pool: TeacherPoolConfig, model: TeacherModelConfig) -> None:
    """Only a network that is built here can be compiled."""
    allowed = [kind for kind, read in KINDS.items() if "precision" in read]
    if pool.compile and model.kind not in allowed:
        raise ConfigError(
            f"{option}.compile: has no effect where {option}.kind is {model.kind}; remove it, it is for"
            f" {', '.join(allowed)}"
        )


def _refuse_pool(option: str, member: MemberConfig) -> None:
    for key in _POOL_OPTIONS:
        if getattr(member, key) != getattr(MemberConfig(), key):
            raise ConfigError(
                f"{option}.{key}: got {getattr(member, key)}, but teacher.pools is one, where all members share the"
                f" actors of teacher.{key}; set teacher.pools=each for an actor pool per member"
            )


def class_map(model: TeacherModelConfig) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Output channels that are taught, and our names of them, background first among the names."""
    wanted = model.classes or {name: name for name in model.outputs}
    chosen = [(place, wanted[name]) for place, name in enumerate(model.outputs) if name in wanted]
    chosen = [(place, name) for place, name in chosen if name != "background"]
    return tuple(place for place, _ in chosen), ("background", *(name for _, name in chosen))


def _check_model(option: str, model: TeacherModelConfig) -> None:
    if model.kind not in KINDS:
        raise ConfigError(f"{option}.kind: got {model.kind!r}, allowed are {', '.join(KINDS)}")
    read = KINDS[model.kind]
    plain = type(model)()
    known = {field.name for field in dataclasses.fields(TeacherModelConfig)} | set(_ENSEMBLE)
    for field in dataclasses.fields(model):
        idle = field.name in known and field.name not in ("kind", *read)
        if idle and getattr(model, field.name) != getattr(plain, field.name):
            raise ConfigError(
                f"{option}.{field.name}: has no effect where {option}.kind is {model.kind}; remove it, that kind reads"
                f" {', '.join(read)}"
            )
    if model.batch_frames < 1:
        raise ConfigError(f"{option}.batch_frames: got {model.batch_frames}, must be at least 1")
    if model.precision not in PRECISIONS:
        raise ConfigError(f"{option}.precision: got {model.precision!r}, allowed are {', '.join(PRECISIONS)}")
    if not 0 <= model.reference_tolerance <= 1:
        raise ConfigError(f"{option}.reference_tolerance: got {model.reference_tolerance}, must lie in 0 .. 1")
    if model.kind not in ("embedded", "embedded_chambers", "ensemble", "remote") and not model.weights:
        what = "the folder of masks" if model.kind == "recorded" else "its checkpoint file"
        raise ConfigError(f"{option}.weights: empty, but {option}.kind is {model.kind}; name {what}")
    if model.kind in NETWORK_KINDS:
        _check_network(option, model)
    if "outputs" in read and (model.outputs or model.kind != "monai_bundle"):
        check_classes(option, model)


def _check_network(option: str, model: TeacherModelConfig) -> None:
    if model.sha256 and not re.fullmatch(r"[0-9a-f]{64}", model.sha256):
        raise ConfigError(f"{option}.sha256: got {model.sha256!r}, expected 64 hexadecimal digits (sha256sum FILE)")
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
    if not all(std > 0 for std in model.pixel_std):
        raise ConfigError(f"{option}.pixel_std: got {model.pixel_std}, all must be above 0")
    for name, allowed in (("layout", LAYOUTS), ("activation", ACTIVATIONS), ("normalise", NORMALISATIONS)):
        if getattr(model, name) not in allowed:
            raise ConfigError(f"{option}.{name}: got {getattr(model, name)!r}, allowed are {', '.join(allowed)}")
    if model.input_size < 0 or model.window_frames < 0:
        raise ConfigError(f"{option}: input_size and window_frames must be at least 0")
    if model.window_frames and model.layout == "NCHW":
        raise ConfigError(f"{option}.window_frames: has no effect where {option}.layout is NCHW, a frame at a time")


def check_classes(option: str, model: TeacherModelConfig) -> None:
    """Refuse outputs and classes that do not fit each other. Raises `ConfigError`."""
    if not model.outputs or len(set(model.outputs)) < len(model.outputs):
        raise ConfigError(f"{option}.outputs: got {', '.join(model.outputs) or 'none'}, expected different names")
    if unknown := [name for name in model.classes if name not in model.outputs]:
        raise ConfigError(f"{option}.classes: {unknown[0]!r} is none of {option}.outputs ({', '.join(model.outputs)})")
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
    """Refuse limited teachers that cannot be made. Raises `ConfigError`."""
    for option, least in (("clips", 1), ("steps", 1), ("batch_clips", 1), ("cases", 2)):
        if getattr(limited, option) < least:
            raise ConfigError(f"limited.{option}: got {getattr(limited, option)}, must be at least {least}")
    if len(limited.sites) < 2 or len(set(limited.sites)) < len(limited.sites):
        got = ", ".join(limited.sites) or "none"
        raise ConfigError(f"limited.sites: got {got}; expected two or more different scanners of the phantom")
    if limited.fusion not in FUSIONS:
        raise ConfigError(f"limited.fusion: got {limited.fusion!r}, allowed are {', '.join(FUSIONS)}")
