"""Options of `students.NAME` (a student's network and start) and `objective` (weights of the further tasks)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from echodfkd.config.sections.objective import PLAIN_OBJECTIVE, TermConfig
from echodfkd.config.sections.option import MOST_WEIGHT, option

CAUSAL = ("none", "conv3d")
"""Values of ``recurrence`` that cannot run against time."""
_OF_TRAINING = ("objective", "initial", "initial_sha256")

WEIGHTS_SUFFIXES = (".safetensors", ".ckpt")
"""Files that a student can start from."""


@dataclass(frozen=True)
class StudentConfig:
    """One student: k blocks of n recurrent layers, filters * 2^i channels in block i. Defaults: the paper's."""

    blocks: int = option(3, least=1, most=6)
    """Blocks of the encoder, each at half the resolution of the one before."""
    layers: int = option(1, least=1, most=8)
    """Recurrent layers in a block."""
    filters: int = option(12, least=0, most=1024)
    """0: the largest widths with no more weights than the paper's network of the same blocks and layers has."""
    norm: str = option("batch", choices=("batch", "group"))
    """batch (statistics over all workers) or group."""
    classes: list[str] = field(default_factory=lambda: ["LV"])
    """Classes to segment, by the teacher's names (embedded_chambers: LV, myocardium, LA, RV, RA); LV is always one."""
    tasks: list[str] = option(factory=list, choices=("phase", "ef"))
    """Further tasks: phase (of every frame), ef (the clip's ejection fraction), both or nothing."""
    recurrence: str = option(
        "convlstm", choices=("convlstm", "convlstm_separable", "convgru", "mingru", "shift", *CAUSAL)
    )
    """convlstm, convlstm_separable, convgru, mingru; or without recurrence shift (channels come one frame late), none
    (each frame by itself) or conv3d (this frame and the two before)."""
    skips: bool = False
    """The decoder also sees the encoder's features of its own resolution."""
    activation: str = option("none", choices=("none", "relu", "gelu", "silu"))
    """After each norm of the decoder: none, relu, gelu or silu."""
    bidirectional: bool = False
    """Half of every recurrent layer runs against time: for recordings, not for a live stream."""
    input: str = option("normalised", choices=("normalised", "raw"))
    """normalised (grey levels centred and scaled), or raw (0 .. 255 as they are, as in the authors' checkpoints)."""
    side: int = option(0, least=0, ceiling=2048)
    """Side in pixels that the network works at: frames of any other size are resized to it inside, and masks back, so
    that a student sees a heart at one scale; 0 takes frames as they are. Exported files take frames of this side."""
    objective: dict[str, TermConfig] = option(factory=dict, needs="has_objective")
    """Loss on the masks: bce, kl, focal, dice, lovasz, boundary, temporal, each with its options; empty is the
    authors' cross-entropy, {bce: {}}. A mapping replaces the default: name bce in it to keep it. The term features
    reads teacher.feature_layer, and needs another term beside it."""
    initial: str = option("", path="input", identity=False)  # known by initial_sha256
    """Weights that training starts from: a student.safetensors, or a .ckpt of the authors; empty draws them."""
    initial_sha256: str = ""
    """Of that file's bytes; filled in when the config is read, and checked before training."""

    @property
    def has_objective(self) -> bool:
        """Whether the loss on the masks is another one than the authors'."""
        return self.objective not in ({}, PLAIN_OBJECTIVE)

    @property
    def network(self) -> dict[str, Any]:
        """The options that shape the network: the arguments of `echodfkd.models.students.build.build_student`."""
        return {key: value for key, value in vars(self).items() if key not in _OF_TRAINING}


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the loss's further terms, beside 1 for the masks; a student has the terms of its tasks."""

    phase_weight: float = option(0.1, least=0, ceiling=MOST_WEIGHT)
    """Cross-entropy, over the frames of clips in which the teacher's masks show a whole beat."""
    ef_weight: float = option(0.1, least=0, ceiling=MOST_WEIGHT)
    """Smooth L1 of the ejection fraction (0..1), over such clips."""
