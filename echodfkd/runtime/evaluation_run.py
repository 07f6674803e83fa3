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

from echodfkd.config.evaluated import changes_of, window_notes
from echodfkd.config.rules.jobs import needs_models
from echodfkd.config.run import RunConfig
from echodfkd.core.counter import Counter
from echodfkd.core.errors import EchoDFKDError, InputError, RunError
from echodfkd.core.redaction import dump_json
from echodfkd.evaluation.agreement import agreement_of
from echodfkd.evaluation.folder import EvaluationFolder
from echodfkd.evaluation.scorer import ModelScorer, ScoredCase, case_numbers
from echodfkd.reporting.summary import write_summary
from echodfkd.runtime.cluster.connection import connected, last_sentence, node_labels, with_absolute_paths
from echodfkd.runtime.stream.builders import evaluation_notes, evaluation_source

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
        say: takes lines of progress.
        scorers: makes the `Scorers`; None scores in this process.

    Raises:
        InputError: nothing is named, the folder holds something else, or an input cannot be used.
    """
    options = config.evaluate
    needs_models(config)
    if options.run:
        say(changes_of(config))
    notes = [*window_notes(config), *evaluation_notes(config)]
    for note in notes:
        say(f"note: {note}")
    numbers = case_numbers(config, evaluation_source(config))
    team = (scorers or ModelScorer)(config)
    known = team.describe()
    folder = EvaluationFolder(replace(config, students=known["students"]), known["ids"])
    _score_missing(folder, team, numbers, say)
    if not folder.cases:
        raise InputError(
            f"evaluation.source: none of its {len(numbers)} cases can be used, the last because {folder.last_fault}"
            f" ({options.out}/quarantine)"
        )
    if options.agreement:
        study = agreement_of(known["ids"]["judge_id"], list(folder.judged()), seed=config.seed).to_json()
        folder.storage.write("agreement.json", dump_json(study))
    folder.storage.write("run.json", dump_json({**known["facts"], "source_notes": notes}))
    return write_summary(folder.storage)


def _score_missing(folder: EvaluationFolder, team: Scorers, numbers: Sequence[int], say: Callable[[str], None]) -> None:
    """Score the cases that the folder has no rows of."""
    missing = [number for number in numbers if number not in folder.cases]
    if folder.cases:
        say(f"{len(numbers) - len(missing)} of {len(numbers)} cases are scored already")
    try:
        before = len(numbers) - len(missing)
        with Counter("cases", len(numbers), say, done=before) as counter:
            for done, (number, found) in enumerate(zip(missing, team.score_all(missing), strict=True), before + 1):
                folder.keep(number, found)
                counter.show(done, found.clip_id)
    finally:
        folder.flush()
