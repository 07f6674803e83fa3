"""Estimate of a run's time and cost, from the stage rates of a short pilot run.

A pilot is a few hundred updates of the same config on the smallest cluster. Its summary.json has, for each stage, the
number of clips and the seconds its actors worked; the rate is their ratio. Plan, pool bounds and prices come from the
config. Formulas: cluster/README.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from echodfkd.config.run import RunConfig
from echodfkd.config.stored import stored_config
from echodfkd.core.errors import InputError
from echodfkd.storage.files import RunStorage

HOUR = 3600.0
SEEN_S = 0.15
"""Seconds from the end of a source task to the start of the next: Ray Data's scheduler looks for finished tasks ten
times a second, and two tasks that take no time make 11 to 14 blocks a second (docs/explanation/scale.md). It does not
slow teachers whose blocks take longer: each has a second block waiting."""
SEGMENT_S = 10.0
"""Seconds that the students wait at a change of segments (docs/explanation/scale.md)."""


@dataclass(frozen=True)
class Stage:
    """One stage of the run.

    Attributes:
        name: source, generator, teacher, students or evaluator; teacher.NAME for the pool of an ensemble's member,
            generator.NAME for that of a mixture's part.
        actors: processes at the speed of the run (at most as many as the config allows).
        most: the config's maximum of actors.
        clips_s: clips per second of work of one actor (an evaluator: cases).
        hours: working time until the run is done.
        price: of one process per hour, or of one machine; None if the config has none.
        per_machine: processes that one machine holds.
    """

    name: str
    actors: int
    most: int
    clips_s: float
    hours: float
    price: float | None
    per_machine: int = 1

    @property
    def machines(self) -> int:
        """Machines that are rented for it."""
        return math.ceil(self.actors / self.per_machine)

    @property
    def cost(self) -> float | None:
        """Of all its machines."""
        return None if self.price is None else self.machines * self.hours * self.price


@dataclass(frozen=True)
class Estimate:
    """A run's time and cost if every stage keeps the pilot's rate.

    Attributes:
        clips: of the plan.
        clips_s: of the whole pipeline.
        bound: the slowest stage.
        hours: until the last checkpoint is scored.
        stages: in stream order.
        notes: differences between pilot and run.
        waits_s: the start, and the changes of segments; a part of ``hours``.
        traffic_gb: moved from sources to teachers and from teachers to students.
        price_per_gb: of traffic between zones.
    """

    clips: int
    clips_s: float
    bound: str
    hours: float
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]
    waits_s: float = 0.0
    traffic_gb: float = 0.0
    price_per_gb: float = 0.0

    def lines(self) -> list[str]:
        """Lines for the terminal."""
        found = [
            f"estimate: {self.clips:,} clips at {self.clips_s:.1f} clips/s take {_time(self.hours)}; the bound is"
            f" {self.bound}; start and changes of segments are {_time(self.waits_s / HOUR)} of it"
        ]
        for stage in self.stages:
            cost = "" if stage.cost is None else f", cost {_cost(stage.cost)}"
            pace = "" if math.isnan(stage.clips_s) else f", {stage.clips_s:.2f} clips/s each"
            found.append(
                f"estimate: {stage.name}: {stage.actors} of at most {stage.most}{pace},"
                f"{f' {stage.machines} machines,' if stage.per_machine > 1 else ''} {_time(stage.hours)}{cost}"
            )
        traffic = self.traffic_gb * self.price_per_gb
        found.append(
            f"estimate: {self.traffic_gb:,.0f} GB go from sources to teachers to students,"
            f" {1e3 * self.traffic_gb / self.hours / HOUR:.1f} MB/s"
            + (f"; cost {_cost(traffic)} if all of it crosses zones" if traffic else "")
        )
        known = [stage.cost for stage in self.stages if stage.cost is not None]
        if known:
            missing = [stage.name for stage in self.stages if stage.cost is None]
            rest = f" (without {', '.join(missing)}: sizing.price_per_hour has no price)" if missing else ""
            found.append(f"estimate: cost {_cost(sum(known) + traffic)} in all{rest}")
        return found + [f"estimate: {note}" for note in self.notes]


def estimate_run(config: RunConfig) -> Estimate:
    """The estimate of a config whose ``sizing.pilot`` names the folder of a finished short run.

    Raises:
        InputError: the folder holds no such run.
    """
    storage = RunStorage(config.sizing.pilot)
    try:
        summary = storage.read_json("summary.json")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"sizing.pilot: {storage.root} holds no finished run (summary.json)") from error
    return estimate(config, stored_config(storage), summary)


def estimate(config: RunConfig, pilot: RunConfig, summary: Mapping[str, Any]) -> Estimate:
    """The estimate from a pilot's config and summary.

    A clip's work is assumed proportional to its pixels, and a stage's speed to its number of processes; network and
    shared disks are ignored. The pause between two source tasks is included (`SEEN_S`).

    Raises:
        InputError: the summary lacks a stage.
    """
    stream = _stream(config)
    rates = _clip_rates(config, pilot, summary)
    speeds = {name: most * rates[name] for name, (most, _) in stream.items()}
    bound = min(speeds, key=lambda name: speeds[name])
    clips_s, clips = speeds[bound], config.plan_slots
    waits_s = _start_s(summary) + SEGMENT_S * (config.num_segments - 1)
    hours = (clips / clips_s + waits_s) / HOUR
    prices, holds, least = config.sizing.price_per_hour, config.sizing.per_machine, _least(config)
    stages = [
        Stage(
            name,
            most if name == "students" else min(most, max(least[name], math.ceil(clips_s / rates[name] - 1e-9))),
            most,
            rates[name],
            hours,
            prices.get(name.partition(".")[0]),
            holds.get(name.partition(".")[0], 1),
        )
        for name, (most, _) in stream.items()
    ]
    scored = 0.0
    if config.evaluation.enabled:
        rate, cases, count = _scoring(config, pilot, summary)
        scored = cases / (rate * count) / HOUR
        price, per_machine = prices.get("evaluator"), holds.get("evaluator", 1)
        stages.append(Stage("evaluator", count, count, rate, max(hours, scored), price, per_machine))
    if "head" in prices:
        stages.append(Stage("head", 1, 1, math.nan, max(hours, scored), prices["head"]))
    notes = _own_rate(summary) + _differences(config, pilot) + _generators_of_a_teacher(config, rates)
    if scored > hours:
        notes.append(f"evaluators end {_time(scored - hours)} after the students: raise evaluation.actors")
    moved = clips * (_pixels(config.window.frames, config.window.size) + config.clip_bytes) / 1e9
    whole = max(hours, scored)
    return Estimate(
        clips, clips_s, bound, whole, tuple(stages), tuple(notes), waits_s, moved, config.sizing.price_per_gb
    )


def _generators_of_a_teacher(config: RunConfig, rates: Mapping[str, float]) -> list[str]:
    return [
        f"{math.ceil(rates['teacher'] / rates[name] - 1e-9)} actors of {name} keep one teacher actor busy"
        for name in config.generator_pools
    ]


def _scoring(config: RunConfig, pilot: RunConfig, summary: Mapping[str, Any]) -> tuple[float, int, int]:
    """Cases that an evaluator scores a second, cases of the run, and the number of evaluators."""
    frames = _pixels(pilot.evaluation.frames, pilot.window.size)
    rate = _rate(summary, "evaluator") * frames / _pixels(config.evaluation.frames, config.window.size)
    checkpoints = math.ceil(config.train.steps / config.train.checkpoint_every)
    return rate, config.evaluation.cases * (checkpoints * len(config.students) + 1), config.evaluation.actors


def _start_s(summary: Mapping[str, Any]) -> float:
    """Seconds to the pilot's first update; 0 if it does not tell."""
    found = summary["pipeline"].get("first_step_s")
    return float(found) if isinstance(found, int | float) and math.isfinite(found) and found > 0 else 0.0


def _least(config: RunConfig) -> dict[str, int]:
    """Stages of the stream -> processes that are kept, however little there is to do."""
    pools = {f"teacher.{name}": member.min_actors for name, member in config.teacher.members.items()}
    pools |= {name: pool.min_actors for name, pool in config.generator_pools.items()}
    return {"source": 1, "teacher": config.teacher.min_actors, **pools}


def _clip_rates(config: RunConfig, pilot: RunConfig, summary: Mapping[str, Any]) -> dict[str, float]:
    """Clips of the run per second of one process, by stage of the stream."""
    scale = _pixels(pilot.window.frames, pilot.window.size) / _pixels(config.window.frames, config.window.size)
    rates = {name: _rate(summary, *parts) * scale for name, (_, parts) in _stream(config).items()}
    for name in config.generator_pools:  # a mixture's part makes only its share of the clips
        rates[name] /= config.source.share(name.partition(".")[2])
    rates["source"] = 1 / (1 / rates["source"] + SEEN_S / config.micro_batch)
    return rates


def _stream(config: RunConfig) -> dict[str, tuple[int, list[str]]]:
    """Stages of the stream -> most processes, and the stages of summary.json whose work one process does."""
    teacher = config.teacher
    members = [f"teacher.{name}" for name in teacher.members]
    found = {"source": (config.data.source_tasks, ["source"])}
    found |= {name: (pool.max_actors, [name]) for name, pool in config.generator_pools.items()}
    if teacher.pools == "each":
        found |= {f"teacher.{name}": (each.max_actors, [f"teacher.{name}"]) for name, each in teacher.members.items()}
        members = []
    found["teacher"] = (teacher.max_actors, ["teacher", *members])
    return {**found, "students": (config.train.workers, ["students"])}


def _rate(summary: Mapping[str, Any], *stages: str) -> float:
    """Clips per second of a process that passes each clip through these stages."""
    seconds = 0.0
    for stage in stages:
        try:
            found = summary["pipeline"]["stages"][stage]
            clips, busy = float(found["clips"]), float(found["busy_s"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"sizing.pilot: its summary.json does not tell what the stage {stage} did") from error
        if not (clips > 0 and busy > 0 and math.isfinite(clips / busy)):
            raise InputError(f"sizing.pilot: its stage {stage} made {clips:g} clips in {busy:g} s; let it train longer")
        seconds += busy / clips
    return 1 / seconds


def _own_rate(summary: Mapping[str, Any]) -> list[str]:
    """The rate that the pilot itself reached, to be held against the estimate's."""
    try:
        rate = float(summary["ledger"]["clips"]) / float(summary["pipeline"]["steady_s"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return []
    return [f"the pilot itself trained {rate:.1f} clips/s from its first update to its last"] if rate > 0 else []


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{math.ceil(60 * hours)} min"


def _cost(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 10 else f"{cost:.2f}"


def _pixels(frames: int, size: int) -> float:
    return float(frames * size**2)


def _differences(config: RunConfig, pilot: RunConfig) -> list[str]:
    """Settings that differ between pilot and run, so that the rates may not hold."""
    kinds = [
        ("students", sorted(config.students), sorted(pilot.students)),
        ("teacher.kind", config.teacher.kind, pilot.teacher.kind),
        ("source.kind", config.source.kind, pilot.source.kind),
        ("train.global_batch", config.train.global_batch, pilot.train.global_batch),
        ("train.workers", config.train.workers, pilot.train.workers),
        ("train.engine", config.train.engine, pilot.train.engine),
        ("train.precision", config.train.precision, pilot.train.precision),
        ("train.num_gpus", config.train.num_gpus, pilot.train.num_gpus),
        ("train.num_cpus", config.train.num_cpus, pilot.train.num_cpus),
        ("teacher.num_gpus", config.teacher.num_gpus, pilot.teacher.num_gpus),
        ("teacher.num_cpus", config.teacher.num_cpus, pilot.teacher.num_cpus),
        *(
            (f"the {option} of the stage {name}", getattr(pool, option), getattr(pilot.generator_pools[name], option))
            for name, pool in config.generator_pools.items()
            for option in ("num_gpus", "num_cpus", "precision", "steps", "batch")
            if name in pilot.generator_pools
        ),
        ("window", vars(config.window), vars(pilot.window)),
    ]
    return [f"the pilot has {name} {theirs}, this run {ours}" for name, ours, theirs in kinds if ours != theirs]
