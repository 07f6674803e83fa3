"""Options of `teacher`: the model that makes soft masks, and its actor pool (the kinds: docs/how-to/teachers.md)."""

from __future__ import annotations

from dataclasses import dataclass, field

from echodfkd.config.sections.option import MOST_WEIGHT, option
from echodfkd.config.sections.pool import PoolConfig
from echodfkd.config.sections.remote import RemoteConfig
from echodfkd.config.sections.route import RouteConfig
from echodfkd.config.sections.sees import SeesConfig
from echodfkd.core.mask_codes import MASK_CODES, PROBABILITY
from echodfkd.core.precision import TEACHER_CHOICES

FUSIONS = ("mean_prob", "mean_logit", "staple", "entropy", "agreement", "gate")

_PIXELS = ("batch_frames", "pixel_mean", "pixel_std", "normalise", "input_size", "activation", "outputs", "classes")
REFERENCE = ("reference", "reference_tolerance")
ENSEMBLE = ("members", "route", "fusion", "pools", "confidence")
_FILE = ("weights", "plausible", "sha256", "layout", "window_frames", "output", *_PIXELS, *REFERENCE)

KINDS: dict[str, tuple[str, ...]] = {
    "embedded": ("weights", "plausible", "batch_frames", "precision", *REFERENCE),
    "embedded_chambers": ("weights", "plausible", "batch_frames", "precision", *REFERENCE),
    "embedded_wild": ("weights", "plausible", "batch_frames", "precision", *REFERENCE),
    "echonet_deeplabv3": ("weights", "plausible", "batch_frames", "precision", *REFERENCE),
    "onnx": _FILE,
    "exported": _FILE,
    "python": (*_FILE, "network"),
    "torchvision": ("weights", "plausible", "sha256", "network", "precision", *_PIXELS, *REFERENCE),
    "smp": ("weights", "plausible", "sha256", "network", "encoder", "precision", *_PIXELS, *REFERENCE),
    "monai_bundle": ("weights", "plausible", "sha256", "output", *_PIXELS, *REFERENCE),
    "recorded": ("weights", "outputs", "classes"),
    "labels": (),
    "remote": ("remote", *REFERENCE),
    "ensemble": (*ENSEMBLE, *REFERENCE),
}
"""Options of `TeacherModelConfig` (and of an ensemble) that each kind reads."""

BY_CLIP = ("recorded", "labels")
"""Kinds whose masks are found by clip, not by pixels."""


@dataclass(frozen=True)
class TeacherModelConfig:
    """One model. Shipped kinds know their own pixels, sizes and classes; the others are told them here."""

    kind: str = option("embedded", choices=tuple(KINDS), outside=("exported", "python", "remote"))
    """embedded, embedded_chambers or embedded_wild (shipped U-Nets), echonet_deeplabv3 (EchoNet-Dynamic's checkpoint),
    onnx, exported (a torch.export archive), python (a Python file that makes the network; it is run), torchvision or
    smp (a network of torchvision or of segmentation-models-pytorch), monai_bundle (a MONAI bundle),
    recorded (a folder of masks), labels (no model but the truth of the clips: a control that is trained with labels),
    or remote (a service that its owner runs)."""
    weights: str = option("", path="input", identity=False)  # known by the teacher id, as the next one
    """Checkpoint file, or the folder of recorded masks; empty takes the shipped weights of an embedded teacher."""
    sha256: str = option(
        "", pattern="([0-9a-f]{64})?", expected="64 hexadecimal digits (sha256sum FILE)", identity=False
    )
    """Of the weights file: another one is not opened. exported must have it, because its loader can run code."""
    plausible: bool = False
    """Black outside the ultrasound sector, which is found from the clip, before the network sees it, and of its left
    ventricle only the part that is largest over the clip."""
    batch_frames: int = option(128, least=1, ceiling=65_536)
    """Frames in one forward pass: bounds the teacher's memory."""
    precision: str = option("fp32", choices=TEACHER_CHOICES)
    """fp32; bf16 or fp16: masks that differ in their last levels and a teacher id of their own, faster on processors
    that have units for it; or auto: the fastest, measured once, when a run starts (fp16: on a GPU)."""
    network: str = ""
    """torchvision: the network's name, e.g. deeplabv3_resnet50; smp: the architecture, e.g. unet; python: the function
    in the file that returns the network; empty is `network`."""
    encoder: str = ""
    """smp: the encoder's name, e.g. resnet34."""
    normalise: str = option("fixed", choices=("fixed", "frame", "clip"))
    """fixed: pixel_mean and pixel_std are grey levels. frame or clip: every frame (or clip) is brought to mean 0 and
    deviation 1 first, as nnU-Net does, and pixel_mean and pixel_std then apply to that (0 and 1 leave it)."""
    pixel_mean: list[float] = option(factory=list, least=-MOST_WEIGHT, ceiling=MOST_WEIGHT)
    """Grey levels (0..255) that are subtracted, one per input channel: as many channels as numbers."""
    pixel_std: list[float] = option(factory=list, above=0, ceiling=MOST_WEIGHT)
    """Grey levels that are divided by after that, likewise; with normalise=fixed at least 1."""
    input_size: int = option(0, least=0, ceiling=4096)
    """Side in pixels that frames are resized to; 0 keeps the clip's own."""
    layout: str = option("NCHW", choices=("NCHW", "NCTHW", "NTCHW"))
    """Axes of the network's input and output: NCHW (frames), or NCTHW or NTCHW (several frames T of a clip at once)."""
    window_frames: int = option(0, least=0, ceiling=4096)
    """NCTHW, NTCHW: frames that the network sees at once; 0 gives it whole clips."""
    output: str = ""
    """Name of the network's output (its number in a list, from 0), if it has several; empty for the only one, or for
    torchvision's `out`."""
    activation: str = option("sigmoid", choices=("sigmoid", "softmax", "none"))
    """Turns the output into probabilities: sigmoid (classes are independent), softmax (they exclude each other), or
    none (it gives probabilities)."""
    outputs: list[str] = field(default_factory=lambda: ["LV"])
    """Classes of the output's channels, in order, by the teacher's own names; `background` is never taught.
    monai_bundle: empty takes the names in the bundle's metadata."""
    classes: dict[str, str] = field(default_factory=dict)
    """The teacher's name of a class: ours. Classes without a name of ours are dropped; empty takes all as they are."""
    reference: str = option("", path="input", identity=False)
    """Stored frame and mask that the teacher must reproduce before a run starts (echodfkd teacher-reference); empty
    takes `<weights>.reference.safetensors`, if that exists."""
    reference_tolerance: float = option(0.02, least=0, most=1, identity=False)
    """Largest difference of a probability from the stored mask."""
    remote: RemoteConfig = option(factory=RemoteConfig, identity=False)
    """kind=remote: the service, and how patiently it is asked."""


@dataclass(frozen=True)
class MemberConfig(PoolConfig, TeacherModelConfig):
    """One teacher of an ensemble; the options of its actor pool count with teacher.pools=each."""

    weight: float = option(1.0, above=0, ceiling=MOST_WEIGHT)
    """Its share in the fused mask, relative to the others."""
    required: bool = True
    """A clip without a usable mask of it is quarantined; false leaves the member out of that clip, and counts it."""


@dataclass(frozen=True)
class TeacherConfig(PoolConfig, TeacherModelConfig):
    """The model that makes soft masks (or, with kind=ensemble, several), and the actor pool that runs it."""

    sees: SeesConfig = field(default_factory=SeesConfig)
    members: dict[str, MemberConfig] = field(default_factory=dict)
    """ensemble: its teachers by name."""
    route: RouteConfig = field(default_factory=RouteConfig)
    fusion: str = option("mean_prob", choices=FUSIONS)
    """ensemble: mean_prob, mean_logit, staple, entropy, agreement or gate (docs/how-to/ensembles.md: formulas)."""
    pools: str = option("one", choices=("one", "each"), identity=False)
    """ensemble: one (every actor runs all members), or each (every member has an actor pool of its own, and the pool
    here fuses their masks)."""
    confidence: bool = option(False, identity=False)  # a term that reads it says so
    """ensemble: how far its members agree crosses to the students, for terms with confidence=teacher."""
    mask_code: str = option(PROBABILITY, choices=tuple(MASK_CODES))
    """How masks cross to the students and lie in the cache: probability (uint8, steps of 1/255), or logit (int8, steps
    of 1/16 of a logit, up to 7.9), which a term kl with a temperature reads better."""
    stray_limit: float = option(1.0, least=0, most=1)
    """A clip of which a larger share of the taught left ventricle lies outside the part that is largest over the clip
    is quarantined; 1 quarantines none. Such a clip is also left as it is by `plausible`."""
    cache: str = option("", path="output", identity=False)
    """Folder or fsspec URL that keeps taught masks, so that a repeated clip is not taught again."""
    frame_memory_mb: int = option(0, least=0, ceiling=1 << 20, identity=False)
    """Masks of single frames that each actor remembers (compressed), for windows that overlap: epochs over recorded
    videos. Of teachers that see a frame at a time; 0 remembers none."""
    feature_layer: str = ""
    """Module of the network whose activations the students' term `features` reads, e.g. up.0 of an embedded teacher."""
    feature_channels: int = option(16, least=1, ceiling=4096, needs="feature_layer")
    """Channels of them that cross to the students: neighbouring ones are averaged down to so many."""
    feature_size: int = option(0, least=0, ceiling=1024, needs="feature_layer")
    """Side of the maps that cross: cells are averaged down to it; 0 takes window.size // 8. Channels x side x side may
    not be above window.size squared, which is twice the video's bytes."""

    @property
    def kinds(self) -> set[str]:
        """Its kind and those of its members."""
        return {self.kind, *(member.kind for member in self.members.values())}

    @property
    def actor_pools(self) -> dict[str, PoolConfig]:
        """Every pool of teacher actors by the config section that sets it, in the order in which a block meets them."""
        members = self.members if self.pools == "each" else {}
        return {**{f"teacher.members.{name}": member for name, member in members.items()}, "teacher": self}
