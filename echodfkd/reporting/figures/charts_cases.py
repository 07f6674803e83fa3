"""Charts of single cases: two scores against each other, agreement with a known value, calibration, groups of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from echodfkd.reporting.figures.chart_style import (
    INK,
    QUIET,
    add_legend,
    dress,
    new_figure,
    plain,
    series_style,
    spread,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_DOTS = 800
"""Cases that one chart draws, evenly chosen; its numbers and its CSV have all."""


def scatter_chart(models: Mapping[str, tuple[np.ndarray, np.ndarray]], *, x_label: str, y_label: str) -> Figure:
    """One dot per case and model: float (N,) x and y by the model's name."""
    figure = new_figure(height=3.9)
    axes = figure.subplots()
    most = max(20, MAX_DOTS // max(1, len(models)))
    for number, (name, (x, y)) in enumerate(models.items()):
        style, chosen = series_style(number), list(spread(len(x), most))
        axes.plot(
            x[chosen], y[chosen], color=style["color"], marker=style["marker"], linestyle="none", markersize=4,
            alpha=0.75, markeredgewidth=0, label=plain(name),
        )  # fmt: skip
    dress(axes, x_label, y_label)
    add_legend(figure, axes)
    return figure


def bland_altman_chart(
    predicted: np.ndarray, known: np.ndarray, *, bias: float, limits: tuple[float, float], unit: str
) -> Figure:
    """Difference against mean of two measurements (Bland and Altman, Lancet 1986), float (N,) each."""
    figure = new_figure()
    axes = figure.subplots()
    chosen = list(spread(len(known), MAX_DOTS))
    middle, gap = (predicted + known)[chosen] / 2, (predicted - known)[chosen]
    axes.plot(middle, gap, "o", color="#0072b2", markersize=4, alpha=0.7, markeredgewidth=0, label="case")
    axes.axhline(bias, color=INK, linewidth=1.2, label="bias")
    for limit, label in zip(limits, ("limits of agreement (bias ± 1.96 sd)", None), strict=True):
        axes.axhline(limit, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), label=label)
    dress(axes, f"mean of predicted and known, {unit}", f"predicted - known, {unit}")
    add_legend(figure, axes)
    return figure


def reliability_chart(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Share of truth against predicted probability, float (bins,) each, by the model's name."""
    figure = new_figure(height=3.9)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=QUIET, linestyle=(0, (5, 3)), linewidth=1, label="perfect")
    for number, (name, (prob, share)) in enumerate(curves.items()):
        axes.plot(prob, share, linewidth=1.5, markersize=4, label=plain(name), **series_style(number))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    dress(axes, "predicted probability, mean of a bin", "share of pixels in the truth")
    add_legend(figure, axes)
    return figure


def strata_chart(
    labels: Sequence[str], models: Mapping[str, Sequence[tuple[float, float, float]]], *, x_label: str
) -> Figure:
    """A row per group of cases, a mark and an interval per model.

    Args:
        labels: the groups, from above.
        models: name -> (mean, low, high) per group, NaN if there is none.
        x_label: of the axis.
    """
    figure = new_figure(height=1.1 + 0.3 * len(labels))
    axes = figure.subplots()
    for number, (name, values) in enumerate(models.items()):
        mean, low, high = np.array(values, np.float64).T
        y = np.arange(len(labels)) + (number - (len(models) - 1) / 2) * 0.6 / max(1, len(models))
        error = np.clip([mean - low, high - mean], 0.0, None)
        style = {**series_style(number), "linestyle": "none"}
        bars = axes.errorbar(mean, y, xerr=error, markersize=4.5, capsize=2, linewidth=1.2, **style)
        bars.set_label(plain(name))
    axes.set_yticks(range(len(labels)), [plain(label, 40) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    dress(axes, x_label, "")
    add_legend(figure, axes)
    return figure
