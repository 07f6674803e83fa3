"""Options of `evaluation`: the cases, the judge, and the evaluator pool."""

from __future__ import annotations

from dataclasses import dataclass, field

from echodfkd.config.sections.judge import JudgePromptsConfig
from echodfkd.config.sections.source import SourceConfig


@dataclass(frozen=True)
class EvaluationConfig:
    """The evaluator pool: scores every published checkpoint while training goes on."""

    enabled: bool = True
    source: SourceConfig = field(default_factory=lambda: SourceConfig(seed_offset=1_000_003))
    cases: int = 24
    """Held-out cases per checkpoint."""
    frames: int = 48
    """Frames of one case, at window.fps: long enough for a whole beat."""
    judge: str = "embedded"
    """embedded, echoclip (through open_clip), or none."""
    judge_weights: str = ""
    """echoclip: a folder as open_clip saves it, or an hf-hub: name; empty takes the published model from the hub."""
    judge_precision: str = "auto"
    """echoclip: fp32, bf16, or auto (bf16 on a GPU, as published, and fp32 on a CPU)."""
    judge_captions: str = ""
    """echoclip: folder that keeps embedded prompts, by the hash of the weights: whoever finds them there needs the
    image tower alone."""
    judge_controls: bool = False
    """Also score no mask, the inverse, a shifted and a random mask of equal area: five times the judge's work."""
    judge_phase_sign: int = -1
    """echoclip: how its valve cycle runs with the area: -1 by physiology, 1 in the authors' one figure."""
    judge_prompts: JudgePromptsConfig = field(default_factory=JudgePromptsConfig)
    threshold: float = 0.5
    """Probability above which a pixel counts as LV (published: 80/255 for Dice)."""
    actors: int = 1
    num_cpus: float = 0.0
    """CPUs that Ray reserves for one evaluator; 0 shares a single node with training."""
    num_gpus: float = 0.0
    threads: int = 1
    """Torch threads in an evaluator."""
    node_label: str = ""
    """`key=value`: run evaluators only on nodes with this Ray label."""
    overlays: int = 3
    """Cases drawn in the report for every student, evenly from its worst to its best: 3 are worst, median and best."""
