"""The part of the config that says which model makes the soft masks; `config_teacher_checks` refuses what cannot work.

What each kind is and what it needs: docs/teachers.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TeacherModelConfig:
    """One model. Shipped kinds know their own pixels, sizes and classes; the others are told them here."""

    kind: str = "embedded"
    """embedded or embedded_chambers (shipped U-Nets), echonet_deeplabv3 (EchoNet-Dynamic's checkpoint), onnx, exported
    (a torch.export archive), torchvision (one of its segmentation networks), or recorded (a folder of masks)."""
    weights: str = ""
    """Checkpoint file, or the folder of recorded masks; empty takes the shipped weights of an embedded teacher."""
    sha256: str = ""
    """Of the weights file: another one is not opened. exported must have it, because its loader can run code."""
    batch_frames: int = 128
    """Frames in one forward pass: bounds the teacher's memory."""
    network: str = ""
    """torchvision: the network's name, e.g. deeplabv3_resnet50."""
    pixel_mean: list[float] = field(default_factory=list)
    """Grey levels (0..255) that are subtracted, one per input channel: as many channels as numbers."""
    pixel_std: list[float] = field(default_factory=list)
    """Grey levels that are divided by after that, likewise."""
    input_size: int = 0
    """Side in pixels that frames are resized to; 0 keeps the clip's own."""
    layout: str = "NCHW"
    """Axes of the network's input and output: NCHW (frames), or NCTHW or NTCHW (several frames T of a clip at once)."""
    window_frames: int = 0
    """NCTHW, NTCHW: frames that the network sees at once; 0 gives it whole clips."""
    output: str = ""
    """Name of the network's output, where it has several; empty takes the first, or torchvision's `out`."""
    activation: str = "sigmoid"
    """What makes probabilities of the output: sigmoid (classes are independent), softmax (they exclude each other), or
    none (it gives probabilities)."""
    outputs: list[str] = field(default_factory=lambda: ["LV"])
    """What the output's channels stand for, in order, by the teacher's own names; `background` is never taught."""
    classes: dict[str, str] = field(default_factory=dict)
    """The teacher's name of a class: ours. Classes without a name of ours are dropped; empty takes all as they are."""
    reference: str = ""
    """Stored frame and mask that the teacher must reproduce before a run starts (jobs/teacher_reference.py); empty
    takes `<weights>.reference.safetensors` where there is one."""
    reference_tolerance: float = 0.02
    """Largest difference of a probability from the stored mask."""


@dataclass(frozen=True)
class MemberConfig(TeacherModelConfig):
    """One teacher of an ensemble."""

    weight: float = 1.0
    """Its share in the fused mask, relative to the others."""


@dataclass(frozen=True)
class TeacherConfig(TeacherModelConfig):
    """The model that makes soft masks (or, with kind=ensemble, several), and the actor pool that runs it."""

    members: dict[str, MemberConfig] = field(default_factory=dict)
    """ensemble: its teachers by name."""
    fusion: str = "mean_prob"
    """ensemble: mean_prob, mean_logit, staple, entropy or agreement (docs/teachers.md has the formulas)."""
    cache: str = ""
    """Folder or fsspec URL that keeps taught masks, so that a clip which is met again is not taught again."""
    feature_layer: str = ""
    """Module of the network whose activations the students' term `features` reads, e.g. up.0 of an embedded teacher."""
    feature_channels: int = 16
    """Channels of them that cross to the students: neighbouring ones are averaged down to so many."""
    feature_size: int = 0
    """Side of the maps that cross: cells are averaged down to it; 0 takes window.size // 8. Channels x side x side may
    not be above window.size squared, which is twice the video's bytes."""
    device: str = "auto"
    """auto (a GPU where the actor holds one), cpu, or cuda."""
    min_actors: int = 1
    max_actors: int = 1
    num_cpus: float = 1.0
    """CPUs that Ray reserves for one teacher actor."""
    num_gpus: float = 0.0
    """GPUs that Ray reserves for one teacher actor."""
    node_label: str = ""
    """`key=value`: run teachers only on nodes with this Ray label."""
    timeout_s: float = 300.0
    """An actor that holds one block for longer hangs: it is ended, replaced, and its block taught by another. An
    actor's first block, which may compile or tune, has WARM_UP_FACTOR times as long (0: wait for ever)."""
