"""Options of `window`, `optimizer`, `train` and `data`: the clips and the loop that trains on them."""

from __future__ import annotations

from dataclasses import dataclass

from echodfkd.config.sections.option import (
    CPUS,
    DAY_S,
    GPUS,
    MOST_ACTORS,
    MOST_CPUS,
    MOST_STEPS,
    MOST_WEIGHT,
    NODE_LABEL,
    option,
)
from echodfkd.core.precision import CHOICES


@dataclass(frozen=True)
class WindowConfig:
    """The training window that every clip is cut to before it is taught."""

    frames: int = option(16, least=2, ceiling=4096)
    """L: consecutive frames per window (published: 25)."""
    fps: float = option(32.0, least=0, ceiling=1000)
    """Frame rate every clip is resampled to, at least 1; 0 keeps the clip's own."""
    size: int = option(56, least=16, ceiling=2048)
    """H = W in pixels (published training: 56, inference: 112)."""

    def changes(self, size: int, fps: float) -> list[str]:
        """What differs from this window of a training, for a student that runs at another one; an end of a sentence."""
        found = []
        if size != self.size:
            found.append(f"at {size} pixels and was trained at {self.size}")
        if self.fps and fps != self.fps:
            own = f"{fps:g} frames a second" if fps else "the video's own rate"
            found.append(f"at {own} and was trained at {self.fps:g} frames a second")
        return found


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with linear warm-up of the learning rate, then a decay to `final_fraction` of it."""

    kind: str = option("adam", choices=("adam", "adamw"))
    """adam (weight_decay is an L2 term of the gradient) or adamw (decoupled weight decay)."""
    schedule: str = option("cosine", choices=("cosine", "linear", "constant"))
    """After the warm-up: cosine, linear, or constant (no decay)."""
    learning_rate: float = option(3e-3, above=0, ceiling=10)
    """Largest learning rate, after the warm-up."""
    beta1: float = option(0.9, least=0, below=1)
    """Decay of Adam's first moment."""
    beta2: float = option(0.999, least=0, below=1)
    """Decay of Adam's second moment."""
    eps: float = option(1e-8, above=0, ceiling=1)
    """Added to the root of the second moment."""
    weight_decay: float = option(0.0, least=0, ceiling=10)
    """Strength of the decay; 0 is none."""
    warmup_steps: int = option(10, least=0, ceiling=MOST_STEPS)
    """Optimiser steps of the warm-up."""
    final_fraction: float = option(0.05, least=0, most=1)
    """Share of the learning rate that is left at the last step."""
    clip_norm: float = option(1.0, least=0, ceiling=MOST_WEIGHT)
    """Largest global gradient norm; 0 does not clip."""


@dataclass(frozen=True)
class TrainConfig:
    """The student workers. The students are the clock: the run is `steps` optimiser steps long."""

    steps: int = option(200, least=1, ceiling=MOST_STEPS)
    """Optimiser steps of the run."""
    global_batch: int = option(8, least=1, ceiling=65_536)
    """Clips per optimiser step over all workers and accumulation rounds."""
    accumulation: int = option(1, least=1, ceiling=65_536)
    """Micro-batches per optimiser step. More of them take less memory, and BatchNorm sees smaller parts."""
    workers: int = option(1, least=1, ceiling=MOST_ACTORS, identity=False)
    """Worker processes that share each batch."""
    engine: str = option("deepspeed", choices=("deepspeed", "plain"), identity=False)
    """deepspeed or plain (only torch, gradients averaged over the workers)."""
    zero_stage: int = option(0, choices=(0, 1, 2, 3), identity=False)
    """deepspeed: ZeRO stage 0, 1, 2 or 3. Students this small gain nothing above 1."""
    precision: str = option("fp32", choices=CHOICES)
    """fp32, bf16 (autocast, fp32 weights), or auto: the faster one, measured once, when a run starts."""
    torch_adam: bool = option(True, identity=False)
    """deepspeed: use torch's Adam; false compiles DeepSpeed's fused kernel on first use."""
    init_from: str = option("", path="input", identity=False)  # known by each student's initial_sha256
    """An earlier run's folder, one of its checkpoints, or a student.safetensors: weights that every student without an
    `initial` of its own starts from, by its name; the optimiser starts afresh. Empty draws them."""
    same_start: bool = option(False)
    """Students of one architecture start from the same weights, so that what they differ in is not their luck; else the
    weights follow from a student's name too. The runs of a study do so always."""
    ema_decay: float = option(0.0, least=0, below=1)
    """Publish an exponential moving average of the weights in place of the newest, with this decay per update (at first
    less, so that the initial weights fade); 0 publishes the newest."""
    checkpoint_every: int = option(50, least=1, ceiling=MOST_STEPS)
    """Optimiser steps between published checkpoints; the last step is always published."""
    keep_resume: int = option(2, least=1, ceiling=10_000, identity=False)
    """How many of the newest checkpoints keep their resume state (weights stay in all)."""
    early_stop_window: int = option(0, least=0, ceiling=MOST_STEPS)
    """Updates in one window of early stopping, which each student does by itself; 0 trains all to the last step.

    A window's score is the mean of its updates' losses, each taken before its update. While the stream is endless
    no clip of it was trained on before, so that this is a held-out loss without a held-out set (of the network in
    training mode, averaged over the window). It is not one once a recorded source begins its second epoch."""
    early_stop_patience: int = option(10, least=1, ceiling=MOST_STEPS, needs="early_stop_window")
    """A student stops after so many windows in a row without a better score (published: 10 epochs)."""
    early_stop_min_delta: float = option(0.0, least=0, below=1, needs="early_stop_window")
    """Share of the best score that a window must gain to count as better."""
    max_failures: int = option(3, least=0, ceiling=10_000, identity=False)
    """Restarts of the worker group without a new checkpoint in between before the run gives up."""
    stop_grace_s: float = option(25.0, least=1, ceiling=3600, identity=False)
    """After SIGTERM the run publishes a checkpoint and has ended within this time (Kubernetes waits for 30 s)."""
    num_cpus: float = option(1.0, **CPUS)
    """CPUs that Ray reserves for one worker."""
    num_gpus: float = option(0.0, **GPUS)
    """GPUs that Ray reserves for one worker."""
    threads: int = option(0, least=0, ceiling=1024, identity=False)
    """Torch threads in a worker; 0 takes num_cpus rounded up."""
    node_label: str = option("", **NODE_LABEL)
    """`key=value`: run students only on nodes with this Ray label."""


@dataclass(frozen=True)
class DataConfig:
    """The stream from source to students."""

    order: str = option("fixed", choices=("fixed", "arrival"))
    """fixed: only the seed decides the result, bit for bit on CPU; arrival: faster, ledger only."""
    quarantine_limit: float = option(0.01, least=0, most=1, identity=False)
    """Largest share of quarantined indices before the run stops."""
    max_attempts: int = option(8, least=1, ceiling=10_000, identity=False)
    """Indices one slot may try before the run stops."""
    source_num_cpus: float = option(0.5, least=0.01, ceiling=MOST_CPUS, identity=False)
    """CPUs that Ray reserves for one source task."""
    source_tasks: int = option(2, least=1, ceiling=65_536, identity=False)
    """Source tasks that may run at the same time."""
    prefetch_batches: int = option(1, least=1, ceiling=1024, identity=False)
    """Micro-batches that a worker asks for ahead of the one it trains on."""
    segment_tasks: int = option(5_000, least=1, ceiling=1_000_000, identity=False)
    """Most read tasks of one segment of the plan. The stream goes on from one to the next without a pause; after ten,
    its coordinator and pools start again. The tasks of two are kept, so that Ray can make a lost block again."""
    ahead_mb: int = option(64, least=1, ceiling=1 << 20, identity=False)
    """Object-store memory that blocks on their way to the students may fill, in MiB."""
    no_progress_timeout_s: float = option(600.0, least=0, ceiling=7 * DAY_S, identity=False)
    """Stop when nothing moved for so long (0 waits for ever)."""
