"""Distributions of single conditions, as a copula needs them: quantiles and probabilities.

All are truncated to their support by the rule F_cut(x) = (F(x) - F(low)) / (F(high) - F(low)), so that a quantile of
the truncated distribution is a quantile of the whole one. Normal quantiles are the standard library's (Wichura's AS
241).
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

from echodfkd.config.rules.source import Resolved, distribution_of, resolve
from echodfkd.config.sections.source import ConditionSpec


class Marginal(Protocol):
    """The distribution of one number."""

    def quantile(self, u: float) -> float:
        """Smallest x with P(X <= x) >= u, for 0 < u < 1."""
        ...

    def below(self, x: float) -> float:
        """P(X < x)."""
        ...


@dataclass(frozen=True)
class Fixed:
    """Always the same number."""

    value: float

    def quantile(self, u: float) -> float:
        """The number."""
        return self.value

    def below(self, x: float) -> float:
        """0 or 1."""
        return float(self.value < x)


@dataclass(frozen=True)
class Uniform:
    """Equally likely between low and high."""

    low: float
    high: float

    def quantile(self, u: float) -> float:
        """Linear in u."""
        return self.low + u * (self.high - self.low)

    def below(self, x: float) -> float:
        """Linear in x."""
        return min(max((x - self.low) / (self.high - self.low), 0.0), 1.0)


class Normal:
    """Normal or log-normal, truncated to its support."""

    def __init__(self, spec: Resolved) -> None:
        self._log = spec.kind == "lognormal"
        self._low, self._high = spec.low, spec.high
        self._law = NormalDist(spec.location, spec.scale)
        self._first = self._cdf(spec.low)
        self._mass = self._cdf(spec.high) - self._first

    def _cdf(self, x: float) -> float:
        if not self._log:
            return self._law.cdf(x)
        return self._law.cdf(math.log(x)) if x > 0 else 0.0

    def quantile(self, u: float) -> float:
        """Closed form except for the normal quantile."""
        share = self._first + u * self._mass
        if not 0.0 < share < 1.0:
            return self._low if share <= 0.0 else self._high
        x = self._law.inv_cdf(share)
        return min(max(math.exp(x) if self._log else x, self._low), self._high)

    def below(self, x: float) -> float:
        """Closed form."""
        return min(max((self._cdf(x) - self._first) / self._mass, 0.0), 1.0)


class Mixture:
    """Weighted mixture of fixed numbers and distributions."""

    def __init__(self, parts: list[Marginal], weights: list[float], low: float, high: float) -> None:
        total = sum(weights)
        self._parts = [(weight / total, part) for weight, part in zip(weights, parts, strict=True)]
        self._low, self._high = low, high
        self._atoms = sorted({part.value for part in parts if isinstance(part, Fixed)})

    def below(self, x: float) -> float:
        """Sum over components."""
        return sum(weight * part.below(x) for weight, part in self._parts)

    def quantile(self, u: float) -> float:
        """By bisection on the distribution function, to within a few bits; exact at an atom."""
        for atom in self._atoms:
            if self.below(atom) < u <= self._up_to(atom):
                return atom
        low, high = self._low, self._high
        for _ in range(52):
            middle = 0.5 * (low + high)
            if self._up_to(middle) >= u:
                high = middle
            else:
                low = middle
        return high

    def _up_to(self, x: float) -> float:
        return self.below(math.nextafter(x, math.inf))


@dataclass(frozen=True)
class Empirical:
    """The distribution of the values in a table's column: each row equally likely."""

    ordered: tuple[float, ...]

    def quantile(self, u: float) -> float:
        """The value of the row at this rank."""
        return self.ordered[self.rank(u)]

    def rank(self, u: float) -> int:
        """Number of the row, in ascending order of values."""
        return min(int(u * len(self.ordered)), len(self.ordered) - 1)

    def below(self, x: float) -> float:
        """Share of rows."""
        return bisect.bisect_left(self.ordered, x) / len(self.ordered)

    def middle(self, x: float) -> float:
        """P(X < x) + P(X = x) / 2: rank of a value of the column, strictly within 0 .. 1."""
        return (bisect.bisect_left(self.ordered, x) + bisect.bisect_right(self.ordered, x)) / 2 / len(self.ordered)


def build_marginal(option: str, spec: ConditionSpec, name: str) -> Marginal:
    """Build the distribution that a config describes.

    Args:
        option: its name in errors.
        spec: the description.
        name: the condition, for its possible range.

    Raises:
        ConfigError: it cannot be drawn from.
    """
    if distribution_of(option, spec) != "mixture":
        return _simple(resolve(option, spec, name))
    found = [resolve(f"{option}.mixture[{place}]", part, name) for place, part in enumerate(spec.mixture)]
    weights = [part.weight for part in spec.mixture]
    low, high = min(part.low for part in found), max(part.high for part in found)
    return Mixture([_simple(part) for part in found], weights, low, high)


def _simple(spec: Resolved) -> Marginal:
    if spec.kind == "fixed":
        return Fixed(spec.low)
    return Uniform(spec.low, spec.high) if spec.kind == "uniform" else Normal(spec)
