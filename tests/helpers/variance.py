"""An intraclass correlation straight from the table of an analysis of variance: a reference of tests."""

from __future__ import annotations

import numpy as np


def icc_by_anova(values: np.ndarray) -> float:
    """ICC(2,1) of ``values`` (cases, raters), by the mean squares of Shrout and Fleiss (Psychol Bull 86, 1979)."""
    n, k = values.shape
    grand = values.mean()
    between_cases = sum(k * (case.mean() - grand) ** 2 for case in values) / (n - 1)
    between_raters = sum(n * (rater.mean() - grand) ** 2 for rater in values.T) / (k - 1)
    rest = sum(
        (values[i, j] - values[i].mean() - values[:, j].mean() + grand) ** 2 for i in range(n) for j in range(k)
    ) / ((n - 1) * (k - 1))
    return float((between_cases - rest) / (between_cases + (k - 1) * rest + k * (between_raters - rest) / n))
