"""Options of `window`, `optimizer`, `train` and `data`: the clips and the loop that trains on them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WindowConfig:
    """The training window that every clip is cut to before it is taught."""

    frames: int = 16
    """L: consecutive frames per window (published: 25)."""
    fps: float = 32.0
    """Frame rate every clip is resampled to; 0 keeps the clip's own."""
    size: int = 56
    """H = W in pixels (published training: 56, inference: 112)."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with linear warm-up of the learning rate, then a decay to `final_fraction` of it."""

    kind: str = "adam"
    """adam (weight_decay is an L2 term of the gradient) or adamw (decoupled weight decay)."""
    schedule: str = "cosine"
    """After the warm-up: cosine, linear, or constant (no decay)."""
    learning_rate: float = 3e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 10
    final_fraction: float = 0.05
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 does not clip."""


@dataclass(frozen=True)
class TrainConfig:
    """The student workers. The students are the clock: the run is `steps` optimiser steps long."""

    steps: int = 200
    global_batch: int = 8
    """Clips per optimiser step over all workers and accumulation rounds."""
    accumulation: int = 1
    """Micro-batches per optimiser step. More of them take less memory, and BatchNorm sees smaller parts."""
    workers: int = 1
    engine: str = "deepspeed"
    """deepspeed or plain (torch alone, gradients averaged over the workers)."""
    zero_stage: int = 0
    """deepspeed: ZeRO stage 0, 1, 2 or 3. Students this small gain nothing above 1."""
    precision: str = "fp32"
    """fp32, or bf16 (autocast, fp32 weights)."""
    torch_adam: bool = True
    """deepspeed: use torch's Adam; false compiles DeepSpeed's fused kernel on first use."""
    init_from: str = ""
    """An earlier run's folder, one of its checkpoints, or a student.safetensors: weights that every student without an
    `initial` of its own starts from, by its name; the optimiser starts afresh. Empty draws them."""
    ema_decay: float = 0.0
    """Publish an exponential moving average of the weights in place of the newest, with this decay per update (at first
    less, so that the initial weights fade); 0 publishes the newest."""
    checkpoint_every: int = 50
    """Optimiser steps between published checkpoints; the last step is always published."""
    keep_resume: int = 2
    """How many of the newest checkpoints keep their resume state (weights stay in all)."""
    early_stop_window: int = 0
    """Updates in one window of early stopping, which each student does alone; 0 trains all to the last step.

    A window's score is the mean of its updates' losses, each taken before its update. While the stream is endless
    no clip of it was trained on before, so that this is a held-out loss without a held-out set (of the network in
    training mode, averaged over the window). It is not one once a recorded source begins its second epoch."""
    early_stop_patience: int = 10
    """A student stops after so many windows in a row without a better score (published: 10 epochs)."""
    early_stop_min_delta: float = 0.0
    """Share of the best score that a window must gain to count as better."""
    max_failures: int = 3
    """Restarts of the worker group without a new checkpoint in between before the run gives up."""
    stop_grace_s: float = 25.0
    """After SIGTERM the run publishes a checkpoint and has ended within this time (Kubernetes waits for 30 s)."""
    num_cpus: float = 1.0
    """CPUs that Ray reserves for one worker."""
    num_gpus: float = 0.0
    """GPUs that Ray reserves for one worker."""
    threads: int = 0
    """Torch threads in a worker; 0 takes num_cpus rounded up."""
    node_label: str = ""
    """`key=value`: run students only on nodes with this Ray label."""


@dataclass(frozen=True)
class DataConfig:
    """The stream from source to students."""

    order: str = "fixed"
    """fixed: the seed alone decides the result, bit for bit on CPU; arrival: faster, ledger only."""
    quarantine_limit: float = 0.01
    """Largest share of quarantined indices before the run stops."""
    max_attempts: int = 8
    """Indices one slot may try before the run stops."""
    source_num_cpus: float = 0.5
    """CPUs that Ray reserves for one source task."""
    source_tasks: int = 2
    """Source tasks that may run at the same time."""
    prefetch_batches: int = 1
    """Micro-batches, at least 1, that a worker asks for ahead of the one it trains on."""
    segment_tasks: int = 5_000
    """Most read tasks of one segment of the stream. Ray Data plans every task before the first batch, and keeps its
    books on them until the segment is over: 62,500 tasks took 81 s and 682 MB."""
    ahead_mb: int = 64
    """Object-store memory that blocks on their way to the students may fill, in MiB."""
    no_progress_timeout_s: float = 600.0
    """Stop when nothing moved for so long (0 waits for ever)."""
