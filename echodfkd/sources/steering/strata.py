"""Strata of patients: the cells into which edges cut their conditions."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from echodfkd.config.rules.steering import PART, axis_edges, axis_words
from echodfkd.config.sections.source import CHOICES, SourceConfig
from echodfkd.metrics.strata import interval_labels

LEAST_SHARE = 0.005
"""Share of the patients below which a cell is no stratum: a patient of it takes hundreds of draws to find."""


@dataclass(frozen=True)
class Cells:
    """The product of the intervals of some conditions, numbered with the last condition fastest.

    ``axes`` maps a condition to its inner edges, or to its words.
    """

    axes: Mapping[str, tuple[float, ...] | tuple[str, ...]]

    @staticmethod
    def of(source: SourceConfig) -> Cells:
        """The cells of a source's `steering`."""
        words = axis_words(source)
        return Cells(
            {name: words.get(name) or axis_edges(name, edges) for name, edges in source.steering.strata.items()}
        )

    @property
    def labels(self) -> list[tuple[str, ...]]:
        """Each cell as its intervals, in the order of the axes."""
        named = [
            values if _is_word(name) else tuple(interval_labels([float(value) for value in values]))
            for name, values in self.axes.items()
        ]
        return list(itertools.product(*(map(str, labels) for labels in named)))

    @property
    def names(self) -> list[str]:
        """Each cell in words, e.g. "ef_percent < 40, view A4C"."""
        return [
            ", ".join(f"{name} {label}" for name, label in zip(self.axes, cell, strict=True)) for cell in self.labels
        ]

    def place(self, conditions: Mapping[str, Any]) -> int:
        """Number of the cell of these conditions, by name; all of the axes are known."""
        number = 0
        for name, values in self.axes.items():
            value = conditions[name]
            if _is_word(name):
                number = number * len(values) + values.index(value)
            else:
                number = number * (len(values) + 1) + bisect.bisect_right(values, value)
        return number

    def weights(self, shares: Mapping[str, Sequence[float]]) -> list[float]:
        """The product of the weights of each cell's intervals; 1 for a condition that is not in ``shares``."""
        factors = [
            list(shares.get(name, [1.0] * (len(values) + (not _is_word(name))))) for name, values in self.axes.items()
        ]
        products = []
        for factor in itertools.product(*factors):
            product = 1.0
            for value in factor:
                product *= value
            products.append(product)
        return products


def _is_word(name: str) -> bool:
    return name in CHOICES or name == PART
