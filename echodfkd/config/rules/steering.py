"""Checks of `source.steering`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.option import MOST_WEIGHT
from echodfkd.config.sections.source import CHOICES, LIMITS, NUMERIC, RECORDED_KINDS, PartConfig, SourceConfig
from echodfkd.config.sections.steering import CurriculumStage, SteeringConfig
from echodfkd.core.errors import ConfigError
from echodfkd.metrics.strata import EDGES

PART = "source"
"""The part of a mixture: not a condition of a patient, but it cuts strata as one that is a word."""

AXES = (*(name for name in NUMERIC if name not in ("fps", "num_frames")), *CHOICES)
"""Conditions of a patient that can cut strata."""
MAX_STRATA = 64

_OPTION = "source.steering"


def axis_edges(name: str, edges: Sequence[float]) -> tuple[float, ...]:
    """The inner edges of a numeric condition: those given, or those of the report."""
    return tuple(float(edge) for edge in edges) or EDGES.get(name, ())


def check_steering(config: RunConfig) -> None:
    """Refuse a law that no stream can follow. Raises `ConfigError`."""
    steering = config.source.steering
    if config.evaluation.source.steering != SteeringConfig():
        raise ConfigError("evaluation.source.steering: set, but held-out cases are not steered; set source.steering")
    if not steering.strata:
        if steering != SteeringConfig():
            raise ConfigError(f"{_OPTION}.strata: empty, but other options of {_OPTION} are set; name a condition")
        return
    _check_drawn(config.source)
    words = axis_words(config.source)
    cells = math.prod(_intervals(name, edges, words) for name, edges in steering.strata.items())
    if not 2 <= cells <= MAX_STRATA:
        raise ConfigError(f"{_OPTION}.strata: got {cells} strata, must be 2 .. {MAX_STRATA}")
    if steering.judged != SteeringConfig().judged and steering.follow != "judge":
        raise ConfigError(f"{_OPTION}.judged: set, but {_OPTION}.follow is {steering.follow}; it is for judge")
    _check_curriculum(steering, words)


def axis_words(source: SourceConfig) -> dict[str, tuple[str, ...]]:
    """Words of the conditions that are words; `PART` only of a mixture."""
    return {**CHOICES, **({PART: tuple(sorted(source.parts))} if source.parts else {})}


def _check_drawn(source: SourceConfig) -> None:
    parts: dict[str, PartConfig] = {f"source.parts.{name}": part for name, part in source.parts.items()}
    for option, part in (parts or {"source": source}).items():
        if part.kind in RECORDED_KINDS:
            raise ConfigError(
                f"{_OPTION}.strata: set, but {option}.kind is {part.kind}; only patients that are drawn (phantom, a"
                " generator) can be steered"
            )
        if part.conditions.stratify.condition:
            raise ConfigError(f"{_OPTION}.strata: set, and {option}.conditions.stratify too; remove one of them")


def _intervals(name: str, edges: Sequence[float], words: Mapping[str, Sequence[str]]) -> int:
    """Intervals of one condition. Raises `ConfigError`."""
    option = f"{_OPTION}.strata.{name}"
    if name == PART and name not in words:
        raise ConfigError(f"{option}: set, but source.kind is no mixture, which has parts")
    if name not in (*AXES, PART):
        raise ConfigError(f"{_OPTION}.strata: got {name!r}, allowed are {', '.join((*AXES, PART))}")
    if name in words:
        if edges:
            raise ConfigError(f"{option}: got {list(edges)}, must be [] because its strata are its words")
        return len(words[name])
    cuts, (low, high) = axis_edges(name, edges), LIMITS[name]
    if not cuts:
        raise ConfigError(f"{option}: empty, and the report has no edges of it; give at least one number")
    if any(not a < b for a, b in pairwise(cuts)) or not low < cuts[0] <= cuts[-1] < high:
        raise ConfigError(f"{option}: got {list(edges)}, must ascend between {low:g} and {high:g}")
    return len(cuts) + 1


def _check_curriculum(steering: SteeringConfig, words: Mapping[str, Sequence[str]]) -> None:
    option = f"{_OPTION}.curriculum"
    stages = steering.curriculum
    if steering.follow == "none" and not stages and not steering.again:
        raise ConfigError(f"{_OPTION}.follow: none, and no curriculum and no clips that come back: nothing is steered")
    if stages and (stages[0].step or any(not a.step < b.step for a, b in pairwise(stages))):
        raise ConfigError(f"{option}: got the steps {[s.step for s in stages]}, must ascend from 0")
    for place, stage in enumerate(stages):
        _check_stage(
            f"{option}[{place}].shares", stage, {n: _intervals(n, steering.strata[n], words) for n in steering.strata}
        )


def _check_stage(option: str, stage: CurriculumStage, strata: Mapping[str, int]) -> None:
    for name, shares in stage.shares.items():
        if name not in strata:
            raise ConfigError(f"{option}: got {name!r}, allowed are {', '.join(strata)} ({_OPTION}.strata)")
        if len(shares) != strata[name]:
            raise ConfigError(
                f"{option}.{name}: got {len(shares)} weights, {_OPTION}.strata cuts {strata[name]} intervals"
            )
        if not (all(0 <= share <= MOST_WEIGHT for share in shares) and sum(shares) > 0):
            raise ConfigError(
                f"{option}.{name}: got {list(shares)}, must be 0 .. {MOST_WEIGHT} and at least one above 0"
            )
