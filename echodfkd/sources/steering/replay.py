"""Replay the laws of a steered run from its checkpoints, and hold the ledger against them. Nothing is rendered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import InputError
from echodfkd.core.records import PublishedCheckpoint
from echodfkd.sources.phantom.source import clip_tag
from echodfkd.sources.steering.laws import Timetable, first_laws, make_law
from echodfkd.sources.steering.plan import SteeringPlan
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import list_checkpoints
from echodfkd.storage.schemas import LEDGER_SCHEMA, read_part
from echodfkd.storage.steering import Law, read_laws

MOST_SAID = 20
"""Most sentences of one kind of fault."""


@dataclass(frozen=True)
class Replay:
    """``problems`` are sentences; a sound run has none."""

    laws: int
    clips: int
    problems: list[str]


def replay(config: RunConfig, storage: RunStorage) -> Replay:
    """Make every law and every row of the ledger again, from the config and the checkpoints.

    Each checkpoint's laws must begin with those of the one before. Each law must follow from the signals that it
    records, and the clips that these are over must be those of the ledger. Each row must show the clip, the stratum and
    the repeat that the law of its slot gives.

    Raises:
        InputError: there is no checkpoint, or a file of one cannot be read.
    """
    commits = list_checkpoints(storage)
    if not commits:
        raise InputError(f"{storage.root} holds no checkpoint: there is no law to replay")
    plan, times = SteeringPlan(config.source, config.seed), Timetable.of(config)
    known: tuple[Law, ...] = ()
    problems = []
    for commit in commits:
        laws = read_laws(storage, commit, len(plan.shares)).laws
        if laws[: len(known)] != known:
            problems.append(f"{commit.folder} has other laws than the checkpoint before it")
        known = laws
    rows = _ledger(storage, commits)
    problems += _law_problems(plan, times, known, rows)
    wrong = [said for row in rows if (said := _row_problem(plan, times, known, row))]
    return Replay(len(known), len(rows), [*problems, *wrong[:MOST_SAID]])


def _ledger(storage: RunStorage, commits: Sequence[PublishedCheckpoint]) -> list[dict[str, Any]]:
    return [
        row
        for commit in commits
        for part in commit.ledger
        for row in read_part(storage, part, LEDGER_SCHEMA, commit.parts.get(part)).to_pylist()
    ]


def _law_problems(
    plan: SteeringPlan, times: Timetable, laws: Sequence[Law], rows: Sequence[Mapping[str, Any]]
) -> list[str]:
    first = first_laws(plan.source, plan.shares, times)
    problems = [
        f"law {number} is not the one before any measurement" for number, law in enumerate(first) if law != laws[number]
    ]
    names = [plan.name(number) for number in range(len(plan.shares))]
    begin = 0
    for number, law in enumerate(laws[len(first) :], start=len(first)):
        end = law.step - times.checkpoint
        made = replace(make_law(plan.source, plan.shares, law.step, law.loss), clips=law.clips, again=law.again)
        if law != made or law.step != number * times.period:
            problems.append(f"law {number} (from step {law.step}) does not follow from its signals")
        fresh = [row for row in rows if begin < row["step"] <= end and not row["comes_back"]]
        since = [row for row in fresh if plan.measured(row["index"])]
        found = Counter(row["stratum"] for row in since)
        if tuple(found[name] for name in names) != law.clips:
            problems.append(f"law {number} counts other clips than the ledger has after step {begin} up to step {end}")
        trained = {row["clip_id"].rpartition("-i")[2] for row in since}
        if any(f"{_tag(plan, index, draw)[1:]}-e0-w0" not in trained for index, draw, _ in law.again):
            problems.append(f"law {number} brings back clips that were not trained after step {begin} up to step {end}")
        begin = end
    return problems


def _row_problem(plan: SteeringPlan, times: Timetable, laws: Sequence[Law], row: Mapping[str, Any]) -> str:
    """A sentence about a row that the law of its slot does not give, or ""."""
    number = times.law(row["index"])
    if number >= len(laws):
        return f"slot {row['slot']} has a clip of law {number}, which no checkpoint holds"
    choice, place = plan.choose(row["index"], laws[number]), plan.place(row["index"], laws[number])
    wanted = (_tag(plan, place.index, place.draw), plan.name(place.stratum), choice.comes_back is not None)
    found = (f"i{row['clip_id'].rpartition('-i')[2].partition('-')[0]}", row["stratum"], bool(row["comes_back"]))
    return "" if found == wanted else f"slot {row['slot']} shows {found}, its law gives {wanted}"


def _tag(plan: SteeringPlan, index: int, draw: int) -> str:
    return clip_tag(plan.origin(index, draw)[1], "clip", draw)
