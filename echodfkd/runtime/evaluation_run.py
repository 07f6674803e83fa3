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
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError
from ray.util import ActorPool

from echodfkd.config import RunConfig
from echodfkd.errors import EchoDFKDError, RunError
from echodfkd.evaluation import CaseScorer, ScoredCase, evaluate
from echodfkd.runtime.cluster import connected, last_sentence, node_labels, with_absolute_paths

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
    """A `CaseScorer` in a process of its own."""

    def __init__(self, config: RunConfig) -> None:
        if not config.evaluation.num_gpus:
            torch.set_num_threads(config.evaluation.threads)
        self._config = config

    @functools.cached_property
    def _scorer(self) -> CaseScorer:
        """Made by the first call: what fails in it is then that call's error, and not the actor's death."""
        return CaseScorer(self._config)

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
    """One sentence in place of what Ray says of an actor's error."""
    try:
        yield
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, EchoDFKDError):
            raise type(cause)(str(cause)) from error
        raise RunError(f"an evaluator failed: {last_sentence(error)}") from error
    except RayActorError as error:
        raise RunError(f"an evaluator could not be kept alive: {last_sentence(error)}") from error
