"""Options of `evaluation`: the cases, the judge, and the evaluator pool."""

from __future__ import annotations

from dataclasses import dataclass, field

from echodfkd.config.sections.judge import JudgePromptsConfig
from echodfkd.config.sections.option import CPUS, GPUS, MOST_ACTORS, NODE_LABEL, option
from echodfkd.config.sections.source import SourceConfig
from echodfkd.core.precision import CHOICES

JUDGES: dict[str, tuple[str, ...]] = {
    "embedded": ("judge_weights", "judge_phase_sign"),
    "embedded_wild": ("judge_phase_sign",),
    "echoclip": ("judge_weights", "judge_precision", "judge_captions", "judge_phase_sign"),
    "echoprime": ("judge_weights", "judge_precision", "judge_captions"),
    "panecho": ("judge_weights", "judge_precision"),
    "onnx": ("judge_weights", "judge_phase_sign"),
    "none": (),
}
"""Each judge and the options that only some judges read."""
NEED_WEIGHTS = ("echoprime", "panecho", "onnx")
"""Judges whose files a user must have."""


@dataclass(frozen=True)
class EvaluationConfig:
    """The evaluator pool: scores every published checkpoint while training goes on."""

    enabled: bool = True
    """Score checkpoints during training."""
    source: SourceConfig = field(default_factory=lambda: SourceConfig(seed_offset=1_000_003))
    """Source of the held-out cases."""
    cases: int = option(24, least=1, ceiling=1_000_000)
    """Held-out cases per checkpoint."""
    frames: int = option(48, least=4, ceiling=4096)
    """Frames of one case, at window.fps: long enough for a whole beat."""
    judge: str = option("embedded", choices=tuple(JUDGES), outside=("echoclip", *NEED_WEIGHTS))
    """embedded, embedded_wild (all domains), echoclip (by open_clip), echoprime, panecho, onnx (your own), or none."""
    judge_weights: str = option("", path="input", identity=False)  # every score names the hash of the judge's weights
    """Folder with the judge's files (docs/explanation/judge.md). embedded: a file of echodfkd train-judge, empty takes
    the shipped one. echoclip: as open_clip saves it, or an hf-hub: name, empty takes the published one."""
    judge_precision: str = option("auto", choices=CHOICES)
    """echoclip, echoprime, panecho: fp32, bf16, or auto: the faster one, measured once, when a run starts."""
    judge_captions: str = option("", path="input", identity=False)
    """echoclip, echoprime: folder that keeps embedded prompts, by the hash of the weights. With the prompts in it, only
    the image tower is run."""
    judge_controls: bool = False
    """Also score no mask, the inverse, a shifted and a random mask of equal area: five times the judge's work."""
    judge_phase_sign: int = option(-1, choices=(-1, 1))
    """How the judge's valve cycle runs with the area: -1 by physiology, 1 in the authors' one figure."""
    judge_prompts: JudgePromptsConfig = field(default_factory=JudgePromptsConfig)
    """Captions that frames are compared with."""
    threshold: float = option(0.5, least=0, most=1)
    """Probability above which a pixel counts as LV (published: 80/255 for Dice)."""
    actors: int = option(1, least=1, ceiling=MOST_ACTORS, identity=False)
    """Evaluators in the pool."""
    num_cpus: float = option(0.0, **CPUS)
    """CPUs that Ray reserves for one evaluator; 0 shares a single node with training."""
    num_gpus: float = option(0.0, **GPUS)
    """GPUs that Ray reserves for one evaluator."""
    threads: int = option(1, least=1, ceiling=1024, identity=False)
    """Torch threads in an evaluator."""
    node_label: str = option("", **NODE_LABEL)
    """`key=value`: run evaluators only on nodes with this Ray label."""
    overlays: int = option(3, least=0, ceiling=1000, identity=False)
    """Cases drawn in the report for every student, evenly from its worst to its best: 3 are worst, median and best."""
    real_cine: bool = option(False, identity=False)
    """Draw every student's contour in one real heart, the cine in pydicom's package (extra [medical]), on the report's
    page: to look at, no score."""
