"""The whole run as frozen dataclasses: the one place where a default stands (with `config_sources`, `config_teachers`
and `config_objective`).

A run is one YAML file merged over these defaults, then ``key=value`` overrides, through OmegaConf's
structured mode (`config_file`). Numbers that follow from others (micro-batch, plan length, queue bounds)
are properties here and nowhere else. (More than 300 lines: options with their explanations, and one place for them.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from echodfkd.config_augment import AugmentConfig as AugmentConfig
from echodfkd.config_evaluate import EvaluateConfig as EvaluateConfig
from echodfkd.config_judge import JudgePromptsConfig as JudgePromptsConfig
from echodfkd.config_limited import LimitedConfig as LimitedConfig
from echodfkd.config_objective import TermConfig as TermConfig
from echodfkd.config_remote import ServeConfig as ServeConfig
from echodfkd.config_sizing import SizingConfig
from echodfkd.config_sources import ConditionsConfig as ConditionsConfig
from echodfkd.config_sources import MixturePart as MixturePart
from echodfkd.config_sources import PartConfig as PartConfig
from echodfkd.config_sources import SourceConfig as SourceConfig
from echodfkd.config_teachers import TeacherConfig as TeacherConfig


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
    """Micro-batches per optimiser step."""
    workers: int = 1
    engine: str = "deepspeed"
    """deepspeed or plain (torch alone, gradients averaged over the workers)."""
    zero_stage: int = 0
    """deepspeed: ZeRO stage 0, 1, 2 or 3. Students this small gain nothing above 1."""
    precision: str = "fp32"
    """fp32, or bf16 (autocast, fp32 weights)."""
    placement: str = "replicate"
    """replicate (each worker holds every student and a share of the batch) or spread (each worker holds a part of the
    students and trains them on the whole batch: for families that do not fit one device)."""
    memory_share: float = 0.9
    """Share of a device's free memory that the students may fill, as estimated before training; 0 does not check."""
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
    leg_tasks: int = 5_000
    """Most read tasks of one dataset pass. Ray Data plans every task before the first batch, and keeps its books on
    them until the pass is over: 62,500 tasks took 81 s and 682 MB, so that longer plans run in passes (legs)."""
    ahead_mb: int = 64
    """Object-store memory that blocks on their way to the students may fill, in MiB."""
    no_progress_timeout_s: float = 600.0
    """Stop when nothing moved for so long (0 waits for ever)."""


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


@dataclass(frozen=True)
class RayConfig:
    """How the driver finds its cluster."""

    address: str = "auto"
    """auto (the cluster of the environment, else a new local one), local, or host:port."""
    wait_for_nodes_s: float = 0.0
    """Where the cluster cannot hold the run: how long its autoscaler may take to bring what is missing; 0 refuses
    the run at once."""
    allow_unauthenticated: bool = False
    """Go on without RAY_AUTH_MODE=token: only where nobody else reaches the cluster's ports."""
    num_cpus: int = 8
    """Logical CPUs of a new local cluster."""
    object_store_mb: int = 512
    """Object store of a new local cluster, in MiB."""
    progress_s: float = 5.0
    """Seconds between progress lines; 0 prints none."""
    keep_memory: bool = True
    """Workers keep the memory that they free for what they make next (Linux): faster, and they stay as large as they
    were at their largest. The variables are in host_memory.py; those of the driver's environment count before them."""


@dataclass(frozen=True)
class SynthesizeConfig:
    """Clips written to a folder (jobs/synthesize.py): ``source`` at window.fps and window.size, by index."""

    out: str = ""
    """Folder or fsspec URL that the clips are written to."""
    format: str = "echonet"
    """echonet (AVI files, FileList.csv, VolumeTracings.csv) or parquet (shards with the truth of every frame)."""
    clips: int = 100
    first_index: int = 0
    """Index of the first clip; clips of other indices belong into another folder."""
    frames: int = 64
    """Frames of every clip; 0 draws each clip's own length from source.conditions.num_frames (phantom)."""
    shard_clips: int = 16
    """Clips that one task makes and commits together: what an interruption can cost, and one Parquet file."""
    split: str = "TRAIN"
    """FileList.csv's Split of all clips, where there are no split_shares."""
    split_shares: dict[str, float] = field(default_factory=dict)
    """Relative share of each split, e.g. {TRAIN: 0.75, VAL: 0.12, TEST: 0.13}; held to within one clip."""
    num_cpus: float = 1.0
    """CPUs that Ray reserves for one task."""
    in_flight_per_cpu: int = 2
    """Shards handed to Ray and not finished, per task that the cluster can run at once: one runs, one waits."""
    preview: int = 24
    """Clips in preview.png and preview.mp4; 0 draws none."""


@dataclass(frozen=True)
class StudyConfig:
    """Students compared over several runs of one config (jobs/study.py)."""

    seeds: int = 3
    """Runs: the i-th has seed + i, and that number in its name."""
    baseline: str = ""
    """Student that the others are compared with; empty takes the first."""
    teachers: dict[str, TeacherConfig] = field(default_factory=dict)
    """Compare these teachers, and the students of each, instead of students with each other: a run per teacher and
    seed. The others are compared with the first. Empty: all runs have the config's teacher."""
    variants: dict[str, list[str]] = field(default_factory=dict)
    """Runs that differ in more than the student: a name, and the options key=value that it changes, e.g.
    {real: ["source.domain=handheld"]}. Each is a run of its own per seed, and stands in the table by its name."""


@dataclass(frozen=True)
class RunConfig:
    """One run."""

    name: str = "demo"
    storage: str = "runs"
    """Folder or fsspec URL that holds run folders."""
    seed: int = 0
    on_exists: str = "resume"
    """A run folder of this name exists: resume it, or refuse."""
    lease_s: float = 60.0
    """A run that shows no sign of life for so many seconds may be taken over by another one (docs/reliability.md)."""
    source: SourceConfig = field(default_factory=SourceConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    students: dict[str, StudentConfig] = field(default_factory=dict)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    synthesize: SynthesizeConfig = field(default_factory=SynthesizeConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    limited: LimitedConfig = field(default_factory=LimitedConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    sizing: SizingConfig = field(default_factory=SizingConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    ray: RayConfig = field(default_factory=RayConfig)

    @property
    def root(self) -> str:
        """The run folder."""
        return f"{self.storage.rstrip('/')}/{self.name}"

    @property
    def compared(self) -> list[str]:
        """Names in a study's table: the students, or VARIANT, or where there are several of both STUDENT_VARIANT."""
        if not self.study.variants:
            return list(self.students)
        alone = len(self.students) == 1
        return [v if alone else f"{name}_{v}" for v in self.study.variants for name in self.students]

    @property
    def micro_batch(self) -> int:
        """Clips that one worker trains on at once."""
        return self.train.global_batch // (self.train.workers * self.train.accumulation)

    @property
    def plan_slots(self) -> int:
        """N: slots of the plan, each trained exactly once per student."""
        return self.train.steps * self.train.global_batch

    @property
    def blocks_per_step(self) -> int:
        """Micro-batches of one optimiser step over all workers: a block of the stream, and a read task, each."""
        return self.train.workers * self.train.accumulation

    @property
    def leg_steps(self) -> int:
        """Optimiser steps of one dataset pass (a leg): at most data.leg_tasks read tasks, whole checkpoints."""
        most = max(1, self.data.leg_tasks // self.blocks_per_step)
        every = self.train.checkpoint_every
        return most // every * every if most >= every else most

    @property
    def num_legs(self) -> int:
        """Dataset passes that the plan is cut into."""
        return -(-self.train.steps // self.leg_steps)

    @property
    def taught_classes(self) -> tuple[str, ...]:
        """Classes whose soft masks cross to the students: those that any of them asks for, and no others."""
        return tuple(dict.fromkeys(name for student in self.students.values() for name in student.classes)) or ("LV",)

    @property
    def taught_tasks(self) -> tuple[str, ...]:
        """Further targets that cross to the students, likewise."""
        return tuple(dict.fromkeys(name for student in self.students.values() for name in student.tasks))

    @property
    def feature_shape(self) -> tuple[int, int, int] | None:
        """(F, h, w) of the teacher's features of one frame that cross to the students; None where none do."""
        if not self.teacher.feature_layer:
            return None
        side = self.teacher.feature_size or max(1, self.window.size // 8)
        return self.teacher.feature_channels, side, side

    @property
    def clip_bytes(self) -> int:
        """Bytes of one taught clip in the object store: video, masks, confidence, further targets, features, ids."""
        planes = 1 + len(self.taught_classes) * (2 if self.teacher.confidence else 1)
        targets = 4 * self.window.frames * ("phase" in self.taught_tasks) + 4 * ("ef" in self.taught_tasks)
        features = 2 * self.window.frames * math.prod(self.feature_shape or (0,))
        return planes * self.window.frames * self.window.size**2 + targets + features + 512

    @property
    def taught_ahead_bound(self) -> int:
        """Most clips that are taught and not yet trained, whatever the plan's length.

        Ray Data stops the stream once data.ahead_mb of blocks wait; on top of that every teacher actor may
        finish the two blocks it holds, and every worker holds prefetch_batches micro-batches and the one it
        trains on.
        """
        waiting = (self.data.ahead_mb << 20) // self.clip_bytes
        in_teachers = 2 * sum(pool.max_actors for pool in self.teacher.actor_pools.values()) * self.micro_batch
        in_workers = self.train.workers * (self.data.prefetch_batches + 1) * self.micro_batch
        return waiting + in_teachers + in_workers
