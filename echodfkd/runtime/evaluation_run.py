"""Cases scored by actors of a cluster: each loads the models once and takes the next case when it is done with one.

part      consumes         produces          waits for        unblocked by
driver    scored cases     rows, a summary   the next case    an actor
actor     a case's number  a scored case     a number         the driver

An actor that dies is started again and its case scored again: nothing is written but by the driver.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError
from ray.util import ActorPool

from echodfkd.config.file import config_to_yaml
from echodfkd.config.rules.jobs import needs_models
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import EchoDFKDError, InputError, RunError
from echodfkd.core.redaction import dump_json
from echodfkd.evaluation.agreement import JudgedMask, agreement_of
from echodfkd.evaluation.scorer import ModelScorer, ScoredCase, case_numbers, evaluation_cases
from echodfkd.reporting.summary import write_summary
from echodfkd.runtime.cluster.connection import connected, last_sentence, node_labels, with_absolute_paths
from echodfkd.storage import schemas
from echodfkd.storage.files import RunStorage

MAX_TRIES = 4
"""Times that a case is given out, and that an actor is started, before the evaluation fails."""


def run_evaluation(config: RunConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """`evaluation.evaluate` by ``evaluate.actors`` actors.

    Raises:
        EchoDFKDError: one sentence.
    """
    config = with_absolute_paths(config)
    with connected(config.ray):
        return evaluate(config, say, _Team)


class _Actor:
    """A `ModelScorer` in a process of its own."""

    def __init__(self, config: RunConfig) -> None:
        if not config.evaluation.num_gpus:
            torch.set_num_threads(config.evaluation.threads)
        self._config = config

    @functools.cached_property
    def _scorer(self) -> ModelScorer:
        """Made by the first call, so that its failure is that call's error, not the actor's death."""
        return ModelScorer(self._config)

    def describe(self) -> dict[str, Any]:
        return self._scorer.describe()

    def score(self, number: int) -> ScoredCase:
        return self._scorer.score(number)


class _Team:
    """`evaluation.Scorers` on a cluster."""

    def __init__(self, config: RunConfig) -> None:
        options = config.evaluation
        actor = ray.remote(_Actor).options(
            num_cpus=options.num_cpus,
            num_gpus=options.num_gpus,
            label_selector=node_labels(options.node_label),
            max_restarts=MAX_TRIES - 1,
            max_task_retries=MAX_TRIES - 1,
        )
        self._actors = [actor.remote(config) for _ in range(config.evaluate.actors)]

    def describe(self) -> dict[str, Any]:
        with _explained():
            return ray.get(self._actors[0].describe.remote())

    def score_all(self, numbers: Sequence[int]) -> Iterator[ScoredCase]:
        with _explained():
            yield from ActorPool(self._actors).map(lambda actor, number: actor.score.remote(number), numbers)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn Ray's error for an actor into one sentence."""
    try:
        yield
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, EchoDFKDError):
            raise type(cause)(str(cause)) from error
        raise RunError(f"an evaluator failed: {last_sentence(error)}") from error
    except RayActorError as error:
        raise RunError(f"an evaluator could not be kept alive: {last_sentence(error)}") from error


class Scorers(Protocol):
    """Scores cases, in this process (`ModelScorer`) or on a cluster."""

    def describe(self) -> dict[str, Any]:
        """See `ModelScorer.describe`."""
        ...

    def score_all(self, numbers: Sequence[int]) -> Iterator[ScoredCase]:
        """Every case, in the order of its number."""
        ...


def evaluate(
    config: RunConfig, say: Callable[[str], None], scorers: Callable[[RunConfig], Scorers] | None = None
) -> dict[str, Any]:
    """Score everything that ``config.evaluate`` names and write the rows; returns the summary.

    Args:
        config: names the models and the cases.
        say: takes a line per case.
        scorers: makes the `Scorers`; None scores in this process.

    Raises:
        InputError: nothing is named, the folder holds scores already, or an input cannot be used.
    """
    options = config.evaluate
    needs_models(config)
    storage = RunStorage(options.out)
    if storage.list("scores") or storage.exists("identity.json"):
        raise InputError(f"evaluate.out: {options.out} holds scores or a run already; name another folder")
    source = evaluation_cases(config)
    where = config.evaluation.source.path or config.evaluation.source.kind
    notes = [f"evaluation.source ({where}): {note}" for note in source.notes]
    for note in notes:
        say(f"note: {note}")
    count = len(case_numbers(config, source))
    team = (scorers or ModelScorer)(config)
    known = team.describe()
    storage.write("config.yaml", config_to_yaml(replace(config, students=known["students"])).encode())
    cases: list[dict[str, object]] = []
    judged: list[JudgedMask] = []
    for number, found in enumerate(team.score_all(range(count))):
        if found.quarantined:
            schemas.write_records(storage, f"quarantine/part-cases-{number:06d}.parquet", found.quarantined)
        if found.case is None:
            continue
        cases.append(found.case)
        judged += found.judged
        schemas.write_records(storage, f"scores/part-{number:06d}.parquet", found.scores)
        say(f"case {number + 1} of {count}: {found.clip_id}, {len(found.scores)} scores")
    if not cases:
        raise InputError(f"evaluation.source: none of its {count} cases can be used; see {options.out}/quarantine")
    storage.write_table("cases.parquet", cases, schemas.CASE_SCHEMA)
    if options.agreement:
        study = agreement_of(known["judge_id"], judged, seed=config.seed).to_json()
        storage.write("agreement.json", dump_json(study))
    storage.write("run.json", dump_json({**known["facts"], "source_notes": notes}))
    return write_summary(storage)
