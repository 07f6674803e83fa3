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
from echodfkd.runtime.cluster.pilot import differences, own_rate, rate_of, started_in
from echodfkd.storage.files import RunStorage

HOUR = 3600.0
RESTART_S = 30.0
"""Seconds from a new machine to the students' next update (docs/explanation/faults.md: 18 to 48 s)."""
SEEN_S = 0.15
"""Seconds from the end of a source task to the start of the next: Ray Data's scheduler looks for finished tasks ten
times a second, and two tasks that take no time make 11 to 14 blocks a second (docs/explanation/scale.md). It does not
slow teachers whose blocks take longer: each has a second block waiting."""


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
        start_s: until the first update; a part of ``hours``, as are
        stops_s: those in which students stand still, or train again, after the loss of a machine of theirs or the head.
        traffic_gb: moved from sources to teachers and from teachers to students.
        price_per_gb: of traffic between zones.
    """

    clips: int
    clips_s: float
    bound: str
    hours: float
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]
    start_s: float = 0.0
    stops_s: float = 0.0
    traffic_gb: float = 0.0
    price_per_gb: float = 0.0

    def lines(self) -> list[str]:
        """Lines for the terminal."""
        found = [
            f"estimate: {self.clips:,} clips at {self.clips_s:.1f} clips/s take {_time(self.hours)}; the bound is"
            f" {self.bound}; the start is {_time(self.start_s / HOUR)} of it"
            + (f", the loss of machines {_time(self.stops_s / HOUR)}" if self.stops_s else "")
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
    start_s, stops_s = started_in(summary), _stops_s(config, clips / clips_s, clips_s)
    hours = (clips / clips_s + start_s + stops_s) / HOUR
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
    notes = own_rate(summary) + differences(config, pilot) + _generators_of_a_teacher(config, rates)
    if scored > hours:
        notes.append(f"evaluators end {_time(scored - hours)} after the students: raise evaluation.actors")
    moved = clips * (_pixels(config.window.frames, config.window.size) + config.clip_bytes) / 1e9
    whole = max(hours, scored)
    return Estimate(
        clips, clips_s, bound, whole, tuple(stages), tuple(notes), start_s, stops_s, moved, config.sizing.price_per_gb
    )


def _generators_of_a_teacher(config: RunConfig, rates: Mapping[str, float]) -> list[str]:
    return [
        f"{math.ceil(rates['teacher'] / rates[name] - 1e-9)} actors of {name} keep one teacher actor busy"
        for name in config.generator_pools
    ]


def _scoring(config: RunConfig, pilot: RunConfig, summary: Mapping[str, Any]) -> tuple[float, int, int]:
    """Cases that an evaluator scores a second, cases of the run, and the number of evaluators."""
    frames = _pixels(pilot.evaluation.frames, pilot.window.size)
    rate = rate_of(summary, "evaluator") * frames / _pixels(config.evaluation.frames, config.window.size)
    checkpoints = math.ceil(config.train.steps / config.train.checkpoint_every)
    return (
        rate * _share_there(config, "evaluator"),
        config.evaluation.cases * (checkpoints * len(config.students) + 1),
        config.evaluation.actors,
    )


def _share_there(config: RunConfig, stage: str) -> float:
    """Share of the time that a machine of a stage is there, of machines that are taken away and replaced."""
    lost = config.sizing.losses_per_hour.get(stage.partition(".")[0], 0.0)
    return 1 / (1 + lost * config.sizing.machine_start_s / HOUR)


def _stops_s(config: RunConfig, seconds: float, clips_s: float) -> float:
    """Seconds that losses of the students' machines and of the head cost in ``seconds`` of training: a new machine, a
    start, and half of the updates between two checkpoints once more.
    """
    lost, per_machine = config.sizing.losses_per_hour, config.sizing.per_machine.get("students", 1)
    losses = lost.get("students", 0.0) * math.ceil(config.train.workers / per_machine) + lost.get("head", 0.0)
    again = config.train.checkpoint_every * config.train.global_batch / clips_s / 2
    return losses * seconds / HOUR * (config.sizing.machine_start_s + RESTART_S + again)


def _least(config: RunConfig) -> dict[str, int]:
    """Stages of the stream -> processes that are kept, however little there is to do."""
    pools = {f"teacher.{name}": member.min_actors for name, member in config.teacher.members.items()}
    pools |= {name: pool.min_actors for name, pool in config.generator_pools.items()}
    return {"source": 1, "teacher": config.teacher.min_actors, **pools}


def _clip_rates(config: RunConfig, pilot: RunConfig, summary: Mapping[str, Any]) -> dict[str, float]:
    """Clips of the run per second of one process, by stage of the stream."""
    scale = _pixels(pilot.window.frames, pilot.window.size) / _pixels(config.window.frames, config.window.size)
    rates = {name: rate_of(summary, *parts) * scale for name, (_, parts) in _stream(config).items()}
    for name in config.generator_pools:  # a mixture's part makes only its share of the clips
        rates[name] /= config.source.share(name.partition(".")[2])
    rates["source"] = 1 / (1 / rates["source"] + SEEN_S / config.micro_batch)
    return {name: rate if name == "students" else rate * _share_there(config, name) for name, rate in rates.items()}


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


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{math.ceil(60 * hours)} min"


def _cost(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 10 else f"{cost:.2f}"


def _pixels(frames: int, size: int) -> float:
    return float(frames * size**2)
