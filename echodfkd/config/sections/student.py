"""Options of a student, and the weights of its objectives."""

from __future__ import annotations

from dataclasses import dataclass, field

from echodfkd.config.sections.objective import TermConfig


@dataclass(frozen=True)
class StudentConfig:
    """One student: k blocks of n recurrent layers, filters * 2^i channels in block i. Defaults: the paper's."""

    blocks: int = 3
    layers: int = 1
    filters: int = 12
    """0: the largest widths with no more weights than the paper's network of the same blocks and layers has."""
    norm: str = "batch"
    """batch (statistics over all workers) or group."""
    classes: list[str] = field(default_factory=lambda: ["LV"])
    """What it segments, by the teacher's names (embedded_chambers: LV, myocardium, LA, RV, RA); LV is always one."""
    tasks: list[str] = field(default_factory=list)
    """What else it learns: phase (of every frame), ef (the clip's ejection fraction), both or nothing."""
    recurrence: str = "convlstm"
    """convlstm, convlstm_separable, convgru, mingru, or shift (no recurrence: channels come one frame late)."""
    skips: bool = False
    """The decoder also sees the encoder's features of its own resolution."""
    activation: str = "none"
    """After each norm of the decoder: none, relu, gelu or silu."""
    bidirectional: bool = False
    """Half of every recurrent layer runs against time: for recordings, not for a live stream."""
    input: str = "normalised"
    """normalised (grey levels centred and scaled), or raw (0 .. 255 as they are, as in the authors' checkpoints)."""
    objective: dict[str, TermConfig] = field(default_factory=dict)
    """What it minimises on the masks: bce, kl, focal, dice, lovasz, boundary, temporal, each with its options; empty is
    the authors' cross-entropy, {bce: {}}. A mapping that is given stands alone: name bce in it to keep it. The term
    features reads teacher.feature_layer, and needs another term beside it."""
    initial: str = ""
    """Weights that training starts from: a student.safetensors, or a .ckpt of the authors; empty draws them."""
    initial_sha256: str = ""
    """Of that file's bytes; filled in when the config is read, and checked before training."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the loss's further terms, beside 1 for the masks; a student has the terms of its tasks."""

    phase_weight: float = 0.1  # cross-entropy, over the frames of clips in which the teacher's masks show a whole beat
    ef_weight: float = 0.1  # smooth L1 of the ejection fraction (0..1), over such clips
