"""Charts of a whole run: curves over steps, scores against cost, and the timeline of actors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from echodfkd.reporting import intervals
from echodfkd.reporting.figures.chart_style import (
    INK,
    QUIET,
    STAGE_COLOURS,
    add_legend,
    dress,
    new_figure,
    plain,
    series_style,
    thin,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_ACTORS = 24
"""Actors of one stage that the timeline draws, the first by name."""


@dataclass(frozen=True)
class Line:
    """One curve: float vectors of the same length; ``low`` and ``high`` bound a band, if given."""

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True)
class Point:
    """One network in a chart of cost: its cost (weights or MACs), mean, 95 % interval, and number among the series.

    ``published``: a number from a publication, drawn differently and with its name beside it.
    """

    label: str
    cost: float
    mean: float
    low: float
    high: float
    number: int = 0
    published: bool = False


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    level: tuple[str, float] | None = None,
) -> Figure:
    """Curves over steps.

    Args:
        lines: the curves.
        x_label: of the axis, with its unit.
        y_label: likewise.
        log_y: logarithmic y axis.
        level: a label and a value, drawn as a dashed horizontal line.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    figure = new_figure(height=3.5 + 0.16 * max(0, len(lines) // 4 - 1))
    axes = figure.subplots()
    for number, line in enumerate(lines):
        style = series_style(number)
        style["marker"] = style["marker"] if len(line.x) <= 60 else ""
        x, y = thin(line.x), thin(line.y)
        axes.plot(x, y, markersize=4, linewidth=1.6, label=plain(line.label), **style)
        if line.low is not None and line.high is not None and len(x) > 1:
            axes.fill_between(x, thin(line.low), thin(line.high), color=style["color"], alpha=0.15, linewidth=0)
    if level is not None:
        axes.axhline(level[1], color=INK, linestyle=(0, (5, 3)), linewidth=1.2, label=level[0])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    dress(axes, x_label, y_label)
    add_legend(figure, axes)
    return figure


def pareto_chart(
    points: Sequence[Point],
    front: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    level: tuple[str, float] | None = None,
) -> Figure:
    """A score against cost, cost on a logarithmic axis: one mark per network, a line through the front.

    Args:
        points: the networks; published ones are hollow and grey.
        front: those of the run that no other one of the run beats in both, by rising cost.
        x_label: of the axis, with its unit.
        y_label: likewise.
        level: a label and a value, drawn as a dashed horizontal line.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = new_figure(height=3.7 + 0.16 * max(0, len(points) // 6 - 1))
    axes = figure.subplots()
    _published(axes, [point for point in points if point.published])
    for point in points:
        if not point.published:
            error = [[max(0.0, point.mean - point.low)], [max(0.0, point.high - point.mean)]]
            style = {**series_style(point.number), "linestyle": "none"}
            bars = axes.errorbar([point.cost], [point.mean], yerr=error, markersize=6.5, capsize=3, zorder=4, **style)
            bars.set_label(plain(point.label))
    if len(front) > 1:
        costs, means = [point.cost for point in front], [point.mean for point in front]
        axes.step(costs, means, where="post", color=INK, linewidth=1.1, zorder=3, label="Pareto front")
    if level is not None:
        axes.axhline(level[1], color=INK, linestyle=(0, (5, 3)), linewidth=1.1, label=level[0])
    axes.set_xscale("log")
    costs = [point.cost for point in points]
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(costs) < 30 * min(costs) else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.1)
    dress(axes, x_label, y_label)
    add_legend(figure, axes)
    return figure


def _published(axes: Any, points: Sequence[Point]) -> None:
    if not points:
        return
    costs, means = [point.cost for point in points], [point.mean for point in points]
    hollow = {"markerfacecolor": "none", "markeredgecolor": QUIET, "linestyle": "none"}
    axes.plot(costs, means, marker="h", markersize=5.5, label="published (other data)", **hollow)
    low, high = min(means), max(means)
    named: list[tuple[float, float]] = []
    for point in points:  # overlapping names would be illegible; the CSV has all
        place = (np.log10(point.cost) / 0.28, (point.mean - low) / max(high - low, 1e-9) / 0.045)
        if any(abs(place[0] - other[0]) < 1 and abs(place[1] - other[1]) < 1 for other in named):
            continue
        named.append(place)
        axes.annotate(
            plain(point.label), (point.cost, point.mean), textcoords="offset points", xytext=(4, -8), fontsize=7,
            color=QUIET,
        )  # fmt: skip


def _short(value: float) -> str:
    """1,000,000 as 1 M: five such numbers stand side by side on a narrow axis."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def timeline_chart(stages: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Times of work: one row per actor, grouped by stage, seconds since the first piece of work.

    Args:
        stages: stage -> actor -> float64 (N, 2) intervals in seconds.
    """
    every = np.concatenate([work for actors in stages.values() for work in actors.values()])
    begin, end = every[:, 0].min(), every[:, 1].max()
    gap = (end - begin) / 1500  # below a pixel: neighbours merge, so that a long run stays a small page
    rows = [(stage, actor) for stage, actors in stages.items() for actor in sorted(actors)[:MAX_ACTORS]]
    figure = new_figure(10.5, 0.95 + 0.27 * len(rows))
    axes = figure.subplots()
    for y, (stage, actor) in enumerate(rows):
        work = intervals.union(stages[stage][actor], gap=gap)
        bars = [(start - begin, max(stop - start, gap)) for start, stop in work]
        axes.broken_barh(bars, (y - 0.36, 0.72), facecolors=STAGE_COLOURS.get(stage, "#777777"), linewidth=0)
    axes.set_yticks(range(len(rows)), [_actor_label(stage, actor) for stage, actor in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, max(end - begin, 1e-6))
    dress(axes, "time since the first piece of work, s", "")
    axes.grid(axis="y", visible=False)
    return figure


def _actor_label(stage: str, actor: str) -> str:
    return plain(actor if actor.startswith(stage.rstrip("s")) else f"{stage}: {actor}")
