"""Charts of a whole run: curves over steps, scores against cost, and the timeline of actors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from echodfkd.core import intervals
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
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
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
        points: the networks; published ones have a panel of their own.
        front: those of the run that no other one of the run beats in both, by rising cost.
        x_label: of the axis, with its unit.
        y_label: likewise.
        level: a label and a value, drawn as a dashed horizontal line.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    own, others = ([point for point in points if point.published is published] for published in (False, True))
    figure = new_figure(height=3.7 + 0.16 * max(0, len(own) // 6 - 1) + (2.4 if others else 0))
    panels = figure.subplots(1 + bool(others), squeeze=False, sharex=True, height_ratios=[3, 2][: 1 + bool(others)])
    axes, last = panels[0, 0], panels[-1, 0]
    for point in own:
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
    last.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(costs) < 30 * min(costs) else (1,)))
    last.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    last.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.1)
    dress(axes, "" if others else x_label, y_label)
    add_legend(figure, axes)
    if others:
        dress(last, x_label, "published Dice")
        _draw_published(last, others)
    return figure


def _draw_published(axes: Any, points: Sequence[Point]) -> None:
    """Published networks in a panel of their own, which says that its heights are of another data set."""
    from matplotlib.transforms import Bbox

    axes.set_title(
        "another data set: EchoNet-Dynamic's test videos, as published", fontsize=8.5, color=QUIET, loc="left"
    )
    costs, means = [point.cost for point in points], [point.mean for point in points]
    hollow = {"markerfacecolor": "none", "markeredgecolor": QUIET, "linestyle": "none"}
    axes.plot(costs, means, marker="h", markersize=5.5, **hollow)
    axes.margins(y=0.22)
    figure = axes.figure
    figure.draw_without_rendering()  # places the axes, so that letters have a size in pixels
    marks = axes.transData.transform(np.array([costs, means]).T)
    reach = 3.5 * figure.dpi / 72  # half of a mark, in pixels
    taken = [Bbox([centre - reach, centre + reach]) for centre in marks]
    for number, point in enumerate(points):
        others = [box for place, box in enumerate(taken) if place != number]
        for place, side in _PLACES:
            name = axes.annotate(
                plain(point.label), (point.cost, point.mean), textcoords="offset points", xytext=place, ha=side,
                fontsize=7, color=QUIET,
            )  # fmt: skip
            box = name.get_window_extent().expanded(1.15, 1.15)  # a browser's letters may be wider
            if not any(box.overlaps(other) for other in others):
                taken.append(box)
                break
            name.remove()  # without a free place beside it a name is left out; the CSV has all


_PLACES = (((5, -3), "left"), ((-5, -3), "right"), ((0, 5), "center"), ((0, -11), "center"))
"""Where a name may stand: offset from its mark in points, and the side that is aligned with it."""


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
