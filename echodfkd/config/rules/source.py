"""Checks of `source`: its kind, its parts, and the distributions of its patients."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from itertools import pairwise
from statistics import NormalDist

from echodfkd.config.rules.generator import check_generator
from echodfkd.config.rules.values import check_options
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.generator import GeneratorConfig
from echodfkd.config.sections.source import (
    CHOICES,
    LIMITS,
    NUMERIC,
    RECORDED_KINDS,
    ChoiceSpec,
    ConditionsConfig,
    ConditionSpec,
    NumberSpec,
    PartConfig,
    SourceConfig,
    StratifySpec,
)
from echodfkd.core.errors import ConfigError

MAX_PERIOD = 10_000
"""Longest period of a mixture, in clips."""

_USED = {
    "fixed": {"value"},
    "uniform": {"low", "high"},
    "normal": {"mean", "sd", "low", "high"},
    "lognormal": {"mean", "sd", "low", "high"},
    "mixture": {"mixture"},
}


@dataclass(frozen=True)
class Resolved:
    """One distribution, complete: ``low`` and ``high`` are its support; ``mean`` and ``sd`` as they are given.

    Of a lognormal, ``location`` and ``scale`` are mean and sd of the logarithm; of a normal they are mean and sd.
    """

    kind: str
    low: float
    high: float
    location: float = 0.0
    scale: float = 1.0


def check_source(option: str, source: SourceConfig) -> None:
    """Refuse a source that cannot work. Raises `ConfigError`."""
    if source.kind != "mixture":
        for name, given in (("parts", bool(source.parts)), ("cases_from", bool(source.cases_from))):
            if given:
                raise ConfigError(f"{option}.{name}: set, but {option}.kind is {source.kind}; only a mixture has parts")
        _check_part(option, source)
        return
    given_here = {
        "path": bool(source.path),
        "view": bool(source.view),
        "video_fps": bool(source.video_fps),
        "conditions": source.conditions != ConditionsConfig(),
        "generator": source.generator != GeneratorConfig(),
    }
    for name, given in given_here.items():
        if given:
            raise ConfigError(f"{option}.{name}: set, but {option}.kind is mixture; give it to its parts")
    if not source.parts:
        raise ConfigError(f"{option}.parts: empty, but {option}.kind is mixture; name at least one part")
    for name, part in source.parts.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", name):
            raise ConfigError(f"{option}.parts.{name}: a part's name may hold letters, digits and '_'")
        _check_part(f"{option}.parts.{name}", part)
    exact_shares({name: part.weight for name, part in source.parts.items()}, f"{option}.parts")
    if source.cases_from and source.cases_from not in source.parts:
        raise ConfigError(
            f"{option}.cases_from: got {source.cases_from!r}, allowed are {', '.join(sorted(source.parts))}"
        )


def check_clips(config: RunConfig) -> None:
    """Refuse source.clips beside parts that make clips by their place in the run. Raises `ConfigError`."""
    if config.evaluation.source.clips:
        raise ConfigError("evaluation.source.clips: set, but held-out cases are evaluation.cases; remove it")
    if not config.source.clips:
        return
    for reason, given in (
        ("source.steering.strata is set", config.source.steering.strata),
        ("a generator's actors make each clip by its own index", config.source.generated),
        ("masks of teacher.kind=recorded are found by the video of an index", "recorded" in config.teacher.kinds),
        ("synthesize.out is set, whose clips are synthesize.clips", config.synthesize.out),
    ):
        if given:
            raise ConfigError(f"source.clips: got {config.source.clips}, but {reason}; set it to 0")


def exact_shares(weights: Mapping[str, float], option: str) -> dict[str, int]:
    """Clips of each part in one period: the smallest whole numbers in the proportion of the weights.

    Weights are taken as the decimal fractions that they are written as: 0.7 is 7 / 10.

    Raises:
        ConfigError: a weight is not positive, or the period would be longer than `MAX_PERIOD`.
    """
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ConfigError(f"{option}.{name}.weight: got {weight:g}, must be above 0")
    parts = {name: Fraction(repr(float(weight))) for name, weight in weights.items()}
    scale = math.lcm(*(part.denominator for part in parts.values()))
    counts = {name: int(part * scale) for name, part in parts.items()}
    divisor = math.gcd(*counts.values())
    counts = {name: count // divisor for name, count in counts.items()}
    if sum(counts.values()) > MAX_PERIOD:
        raise ConfigError(
            f"{option}: these weights come out in whole clips only every {sum(counts.values())} clips, at most"
            f" {MAX_PERIOD} are allowed; take rounder weights"
        )
    return counts


def _check_part(option: str, part: PartConfig) -> None:
    check_generator(option, part)
    if part.view and part.kind != "camus":
        raise ConfigError(f"{option}.view: got {part.view!r}, only camus has views")
    if part.video_fps and part.kind not in ("folder", "dicom"):
        raise ConfigError(f"{option}.video_fps: got {part.video_fps:g}, only folder and dicom read it")
    if part.kind in RECORDED_KINDS:
        if not part.path:
            wanted = {"recorded": "the folder with FileList.csv", "camus": "the folder with the patients"}
            name = wanted.get(part.kind, "a file or a folder")
            raise ConfigError(f"{option}.path: empty, but {option}.kind is {part.kind}; name {name}")
        if part.conditions != ConditionsConfig():
            raise ConfigError(f"{option}.conditions: set, but {option}.kind is {part.kind}; videos have their own")
        return
    check_conditions(f"{option}.conditions", part.conditions)


def check_conditions(option: str, conditions: ConditionsConfig) -> None:
    """Refuse distributions that cannot be drawn from. Raises `ConfigError`."""
    check_options(conditions, option)
    for name in NUMERIC:
        check_number(f"{option}.{name}", getattr(conditions, name), name)
    for name in CHOICES:
        choice_shares(f"{option}.{name}", getattr(conditions, name), name)
    if conditions.table_sha256 and not conditions.table:
        raise ConfigError(f"{option}.table_sha256: set, but {option}.table is empty")
    _check_stratify(f"{option}.stratify", conditions.stratify)


def check_number(option: str, spec: ConditionSpec, name: str) -> None:
    """Refuse a number's distribution that cannot be drawn from. Raises `ConfigError`."""
    if distribution_of(option, spec) != "mixture":
        resolve(option, spec, name)
        return
    for place, part in enumerate(spec.mixture):
        resolve(f"{option}.mixture[{place}]", part, name)


def distribution_of(option: str, spec: NumberSpec) -> str:
    """The kind of a distribution: as named, or read off the given options. Raises `ConfigError`."""
    given = {f.name for f in fields(spec) if f.name not in ("distribution", "weight")}
    given = {name for name in given if getattr(spec, name) not in (None, [])}
    kind = spec.distribution
    if not kind:
        kind = next((k for k, key in (("mixture", "mixture"), ("fixed", "value")) if key in given), "")
        kind = kind or ("normal" if given & {"mean", "sd"} else "uniform")
    if kind not in _USED or (kind == "mixture" and not isinstance(spec, ConditionSpec)):
        allowed = [k for k in _USED if k != "mixture" or isinstance(spec, ConditionSpec)]
        raise ConfigError(f"{option}.distribution: got {kind!r}, allowed are {', '.join(allowed)}")
    if extra := sorted(given - _USED[kind]):
        raise ConfigError(
            f"{option}: {', '.join(extra)} contradicts a {kind} distribution,"
            f" which takes {', '.join(sorted(_USED[kind]))}"
        )
    needed = {"mean", "sd"} if kind in ("normal", "lognormal") else _USED[kind]
    if missing := sorted(needed - given):
        raise ConfigError(f"{option}: a {kind} distribution needs {' and '.join(sorted(needed))}, got no {missing[0]}")
    return kind


def resolve(option: str, spec: NumberSpec, name: str) -> Resolved:
    """One component of a distribution, checked against the range of condition ``name``. Raises `ConfigError`."""
    kind = distribution_of(option, spec)
    least, most = LIMITS[name]
    for key in ("value", "low", "high", "mean"):
        number = getattr(spec, key)
        if number is not None and not (math.isfinite(number) and (key == "mean" or least <= number <= most)):
            raise ConfigError(f"{option}.{key}: got {number:g}, must lie in {least:g} .. {most:g}")
    if kind == "fixed":
        assert spec.value is not None
        return Resolved(kind, spec.value, spec.value)
    low = least if spec.low is None else spec.low
    high = most if spec.high is None else spec.high
    if not low < high:
        raise ConfigError(f"{option}: low is {low:g} and high is {high:g}; low must be below high")
    if kind == "uniform":
        return Resolved(kind, low, high)
    assert spec.mean is not None
    assert spec.sd is not None
    location, scale = spec.mean, spec.sd
    if kind == "lognormal":
        if not spec.mean > 0:
            raise ConfigError(f"{option}.mean: got {spec.mean:g}, a lognormal distribution needs a mean above 0")
        scale = math.sqrt(math.log1p((spec.sd / spec.mean) ** 2))
        location = math.log(spec.mean) - scale**2 / 2.0
    bounds = [math.log(x) if x > 0 else -math.inf for x in (low, high)] if kind == "lognormal" else [low, high]
    law = NormalDist(location, scale)
    if law.cdf(bounds[1]) - law.cdf(bounds[0]) < 1e-6:
        raise ConfigError(
            f"{option}: a {kind} distribution of mean {spec.mean:g} and sd {spec.sd:g} leaves nothing between"
            f" {low:g} and {high:g}"
        )
    return Resolved(kind, low, high, location, scale)


def choice_shares(option: str, spec: ChoiceSpec, name: str) -> dict[str, float]:
    """Probability of each word that a condition may be, in the order of `CHOICES`. Raises `ConfigError`."""
    allowed = CHOICES[name]
    if spec.value and spec.shares:
        raise ConfigError(f"{option}: value and shares contradict each other; give one of them")
    for word in [spec.value] if spec.value else spec.shares:
        if word not in allowed:
            raise ConfigError(f"{option}: got {word!r}, allowed are {', '.join(allowed)}")
    shares = {spec.value: 1.0} if spec.value else spec.shares or dict.fromkeys(allowed, 1.0)
    total = sum(shares.values())
    if not total > 0:
        raise ConfigError(f"{option}.shares: they sum to 0, at least one must be above 0")
    return {word: shares.get(word, 0.0) / total for word in allowed}


def _check_stratify(option: str, stratify: StratifySpec) -> None:
    if not stratify.condition:
        if stratify.edges or stratify.shares:
            raise ConfigError(f"{option}.condition: empty, but edges or shares are given; name a condition")
        return
    edges, shares = stratify.edges, stratify.shares
    if not edges or any(not a < b for a, b in pairwise(edges)):
        raise ConfigError(f"{option}.edges: got {edges}, must be at least one number, each above the one before")
    if len(shares) != len(edges) + 1:
        raise ConfigError(
            f"{option}.shares: got {len(shares)} for {len(edges)} edges, which cut {len(edges) + 1} strata"
        )
