"""The whole run as one frozen dataclass of sections.

A run is one YAML file merged over these defaults, then ``key=value`` overrides, through OmegaConf's
structured mode (`config.file`). Numbers that follow from others (micro-batch, plan length, queue bounds)
are properties here and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from echodfkd.config.sections.augment import AugmentConfig
from echodfkd.config.sections.evaluate import EvaluateConfig
from echodfkd.config.sections.evaluation import EvaluationConfig
from echodfkd.config.sections.generator import GeneratorConfig
from echodfkd.config.sections.limited import LimitedConfig
from echodfkd.config.sections.option import DAY_S, MOST_CPUS, MOST_SEED, RUN_NAME, option
from echodfkd.config.sections.privacy import PrivacyConfig
from echodfkd.config.sections.remote import ServeConfig
from echodfkd.config.sections.sizing import SizingConfig
from echodfkd.config.sections.source import SourceConfig
from echodfkd.config.sections.student import ObjectiveConfig, StudentConfig
from echodfkd.config.sections.synthesize import SynthesizeConfig
from echodfkd.config.sections.teacher import TeacherConfig
from echodfkd.config.sections.training import DataConfig, OptimizerConfig, TrainConfig, WindowConfig


@dataclass(frozen=True)
class RayConfig:
    """How the driver finds its cluster."""

    address: str = "auto"
    """auto (the cluster of the environment, else a new local one), local, or host:port."""
    wait_for_nodes_s: float = option(0.0, least=0, ceiling=7 * DAY_S)
    """Longest wait for the autoscaler if the cluster cannot hold the run; 0 refuses the run at once."""
    wait_for_room_s: float = option(3600.0, least=0, ceiling=30 * DAY_S)
    """Longest wait on a cluster whose machines others hold; runs start in the order in which they asked. 0 refuses the
    run at once."""
    allow_unauthenticated: bool = False
    """Go on without RAY_AUTH_MODE=token: only if no one else reaches the cluster's ports."""
    num_cpus: int = option(8, least=1, ceiling=MOST_CPUS)
    """Logical CPUs of a new local cluster."""
    object_store_mb: int = option(512, least=80, ceiling=1 << 20)
    """Object store of a new local cluster, in MiB."""
    progress_s: float = option(5.0, least=0, ceiling=DAY_S)
    """Seconds between progress lines; 0 prints none."""
    json_lines: bool = False
    """Print the messages of a run as JSON objects, one a line: `time`, `message`, and of progress lines the numbers."""
    keep_memory: bool = True
    """Workers keep freed memory for their next allocation (Linux): faster, and they stay as large as they were at
    their largest. The variables are in host_memory.py; those of the driver's environment count before them."""


@dataclass(frozen=True)
class StudyConfig:
    """Students compared over several runs of one config (echodfkd study)."""

    seeds: int = option(3, least=2, most=10)
    """Runs: the i-th has seed + i, and that number in its name."""
    baseline: str = ""
    """Student that the others are compared with; empty takes the first."""
    teachers: dict[str, TeacherConfig] = field(default_factory=dict)
    """Compare these teachers, and the students of each, instead of students with each other: a run per teacher and
    seed. The others are compared with the first. Empty: all runs have the config's teacher."""
    variants: dict[str, list[str]] = field(default_factory=dict)
    """Runs that differ in more than the student: a name, and the options key=value that it changes, e.g.
    {real: ["source.domain=handheld"]}. Each is a run of its own per seed, and stands in the table by its name."""
    rows: str = option("", path="output")
    """Folder that keeps the rows of each finished run in one small file; a run that has one there is not run again, on
    any machine. Empty: `rows` in the study's own folder."""
    minutes: float = option(0.0, least=0, ceiling=7 * DAY_S / 60)
    """The study stops after so many minutes, between two steps of a run, and the same command goes on; 0: no limit."""


@dataclass(frozen=True)
class PaintingLaw:
    """Which published painter makes the adversarial clip of an index: the one before the newest checkpoint.

    So a clip of update s never waits for a checkpoint that update s - 1 is still on its way to, and is a function of
    its slot: a painter is known by the updates that its checkpoint holds, 0 that of the start.
    """

    slots: int
    batch: int
    every: int

    def step(self, index: int) -> int:
        """Updates of the painter that makes the clip of this index."""
        update = index % self.slots // self.batch
        return max(0, (update // self.every - 1) * self.every)


PASS_SEGMENTS = 10
"""Segments of the plan in one pass of the stream, after which coordinator and pools start again."""


@dataclass(frozen=True)
class RunConfig:
    """One run."""

    name: str = option(
        "demo",
        pattern=RUN_NAME,
        expected="up to 100 letters, digits, '.', '_' and '-', no '.' at the end, no device's name (CON, NUL ...)",
        identity=False,
    )
    """Name of the run and of its folder."""
    storage: str = option("runs", path="output", pattern=".+", expected="a folder or an fsspec URL", identity=False)
    """Folder or fsspec URL that holds run folders."""
    seed: int = option(0, least=0, ceiling=MOST_SEED)
    """Decides every random draw."""
    on_exists: str = option("resume", choices=("resume", "refuse"), identity=False)
    """A run folder of this name exists: resume it, or refuse."""
    lease_s: float = option(60.0, least=1, ceiling=DAY_S, identity=False)
    """Seconds without a sign of life after which another run may take over (docs/explanation/reliability.md)."""
    source: SourceConfig = field(default_factory=SourceConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    students: dict[str, StudentConfig] = field(default_factory=dict)
    objective: ObjectiveConfig = option(factory=ObjectiveConfig, needs="taught_tasks")
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    synthesize: SynthesizeConfig = option(factory=SynthesizeConfig, identity=False)
    study: StudyConfig = option(factory=StudyConfig, identity=False)
    limited: LimitedConfig = option(factory=LimitedConfig, identity=False)
    evaluate: EvaluateConfig = option(factory=EvaluateConfig, identity=False)
    sizing: SizingConfig = option(factory=SizingConfig, identity=False)
    serve: ServeConfig = option(factory=ServeConfig, identity=False)
    ray: RayConfig = option(factory=RayConfig, identity=False)

    @property
    def root(self) -> str:
        """The run folder."""
        return f"{self.storage.rstrip('/')}/{self.name}"

    @property
    def compared(self) -> list[str]:
        """Names in a study's table: the students, or VARIANT, or STUDENT_VARIANT if there are several of both."""
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
    def segment_steps(self) -> int:
        """Optimiser steps of one segment of the plan: at most data.segment_tasks read tasks, whole checkpoints.

        Of a steered run those of one law, which do not depend on the workers.
        """
        if self.source.steering.strata:
            return self.source.steering.every * self.train.checkpoint_every
        most = max(1, self.data.segment_tasks // self.blocks_per_step)
        every = self.train.checkpoint_every
        return most // every * every if most >= every else most

    @property
    def num_segments(self) -> int:
        """Segments that the plan is cut into."""
        return -(-self.train.steps // self.segment_steps)

    @property
    def pass_steps(self) -> int:
        """Optimiser steps of one pass of the stream: at most `PASS_SEGMENTS` x data.segment_tasks read tasks."""
        return max(1, PASS_SEGMENTS * self.data.segment_tasks // self.blocks_per_step)

    @property
    def num_passes(self) -> int:
        """Passes of the stream over the plan."""
        return -(-self.train.steps // self.pass_steps)

    @property
    def generator_pools(self) -> dict[str, GeneratorConfig]:
        """The pool of every generator of training clips by its stage: generator, or generator.NAME of a mixture."""
        found = self.source.generated.items()
        return {f"generator.{name}" if name else "generator": part.generator for name, part in found}

    @property
    def seen_window(self) -> WindowConfig:
        """The window of the clips that the teacher sees."""
        return replace(self.window, size=self.teacher.sees.size or self.window.size)

    @property
    def painting(self) -> PaintingLaw | None:
        """Which painter makes which adversarial clip; None if none does."""
        if not any(part.kind == "adversarial" for part in self.source.generated.values()):
            return None
        return PaintingLaw(self.plan_slots, self.train.global_batch, self.train.checkpoint_every)

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
        """(F, h, w) of the teacher's features of one frame that cross to the students; None without features."""
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
        """Most clips that are taught and not yet trained; it does not grow with the plan.

        Ray Data stops the stream once data.ahead_mb of blocks wait; on top of that every teacher actor may
        finish the two blocks it holds, and every worker holds prefetch_batches micro-batches and the one it
        trains on.
        """
        waiting = (self.data.ahead_mb << 20) // self.clip_bytes
        in_teachers = 2 * sum(pool.max_actors for pool in self.teacher.actor_pools.values()) * self.micro_batch
        in_workers = self.train.workers * (self.data.prefetch_batches + 1) * self.micro_batch
        return waiting + in_teachers + in_workers

    @property
    def kept_tasks(self) -> int:
        """Newest read tasks from which Ray can make a lost block again: at least those whose blocks are on their way,
        of which as many may wait for a teacher as are taught.
        """
        return 2 * max(self.data.segment_tasks, self.taught_ahead_bound // self.micro_batch)
