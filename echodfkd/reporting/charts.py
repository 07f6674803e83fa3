"""Charts as inline SVG: text stays text, nothing is fetched, the same rows give the same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from echodfkd.reporting import intervals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#b8a800", "#444444")
"""Okabe and Ito's colours, which stay apart in every common kind of colour vision."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STAGE_COLOURS = {"source": "#009e73", "teacher": "#e69f00", "students": "#0072b2", "evaluator": "#cc79a7"}
INK, GRID = "#3c4650", "#e3e7eb"
MAX_POINTS = 400
"""Points of one line: longer curves are averaged in groups, so that the page does not grow with a run."""
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


def line_chart(
    lines: Sequence[Line],
    *,
    name: str,
    title: str,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    level: tuple[str, float] | None = None,
) -> str:
    """Curves over steps as SVG.

    Args:
        lines: the curves.
        name: prefix of the ids inside the SVG: unique in the page.
        title: what the chart shows; also the text that screen readers get.
        x_label: of the axis.
        y_label: of the axis.
        log_y: logarithmic y axis.
        level: a label and a value, drawn as a dashed horizontal line.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    figure = _figure(6.2, 3.1)
    axes = figure.subplots()
    for number, line in enumerate(lines):
        colour = PALETTE[number % len(PALETTE)]
        marker = MARKERS[number % len(MARKERS)] if len(line.x) <= 60 else ""
        x, y = _thin(line.x), _thin(line.y)
        axes.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.6, label=_plain(line.label))
        if line.low is not None and line.high is not None and len(x) > 1:
            axes.fill_between(x, _thin(line.low), _thin(line.high), color=colour, alpha=0.15, linewidth=0)
    if level is not None:
        axes.axhline(level[1], color="#222222", linestyle=(0, (5, 3)), linewidth=1.2, label=level[0])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    _dress(axes, x_label, y_label)
    if len(lines) + (level is not None) > 1:
        axes.legend(frameon=False, fontsize=8, loc="best", ncols=1 + (len(lines) > 6))
    return _svg(figure, name=name, title=title)


def size_chart(points: Sequence[tuple[str, float, float, float, float]], *, name: str, title: str, y_label: str) -> str:
    """One dot per student: (name, parameters, mean, low, high), parameters on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter

    figure = _figure(6.2, 3.1)
    axes = figure.subplots()
    for number, (label, parameters, mean, low, high) in enumerate(points):
        colour = PALETTE[number % len(PALETTE)]
        error = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
        marker = MARKERS[number % len(MARKERS)]
        axes.errorbar([parameters], [mean], yerr=error, color=colour, marker=marker, markersize=6, capsize=3)
        axes.annotate(
            _plain(label), (parameters, mean), textcoords="offset points", xytext=(7, 5), fontsize=8, color=INK
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.margins(x=0.18)
    _dress(axes, "parameters", y_label)
    return _svg(figure, name=name, title=title)


def timeline_chart(stages: Mapping[str, Mapping[str, np.ndarray]], *, name: str, title: str) -> str:
    """Who was busy when: one row per actor, grouped by stage, seconds since the first piece of work.

    Args:
        stages: stage -> actor -> float64 (N, 2) intervals in seconds.
        name: prefix of ids.
        title: text for screen readers.
    """
    every = np.concatenate([work for actors in stages.values() for work in actors.values()])
    begin, end = every[:, 0].min(), every[:, 1].max()
    gap = (end - begin) / 1500  # below a pixel: neighbours merge, so that a long run stays a small page
    rows = [(stage, actor) for stage, actors in stages.items() for actor in sorted(actors)[:MAX_ACTORS]]
    figure = _figure(12.8, 0.95 + 0.27 * len(rows))
    axes = figure.subplots()
    for y, (stage, actor) in enumerate(rows):
        work = intervals.union(stages[stage][actor], gap=gap)
        bars = [(start - begin, max(stop - start, gap)) for start, stop in work]
        axes.broken_barh(bars, (y - 0.36, 0.72), facecolors=STAGE_COLOURS.get(stage, "#777777"), linewidth=0)
    axes.set_yticks(range(len(rows)), [_actor_label(stage, actor) for stage, actor in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, max(end - begin, 1e-6))
    _dress(axes, "seconds since the first piece of work", "")
    axes.grid(axis="y", visible=False)
    return _svg(figure, name=name, title=title)


def _actor_label(stage: str, actor: str) -> str:
    shown = actor if actor.startswith(stage.rstrip("s")) else f"{stage}: {actor}"
    return _plain(shown if len(shown) <= 28 else shown[:27] + "…")


def _plain(label: str) -> str:
    """A name as matplotlib shows it: between dollars it would be read as a formula, and a wrong one is an error."""
    return label.replace("$", r"\$")


def _thin(values: np.ndarray) -> np.ndarray:
    """At most `MAX_POINTS` values: means of equal groups."""
    group = -(-len(values) // MAX_POINTS)
    if group <= 1:
        return values
    return np.array([values[start : start + group].mean() for start in range(0, len(values), group)])


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _dress(axes: Any, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, fontsize=9, color=INK)
    axes.set_ylabel(y_label, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, length=3)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b4bcc4")


def _svg(figure: Figure, *, name: str, title: str) -> str:
    """The figure as an SVG element: no prologue, no name spaces, no metadata, ids of its own."""
    import html

    import matplotlib

    sink = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = sink.getvalue().decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:\w+)?)="[^"]*"', "", text)
    text = re.sub(r'\b(width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    width = round(figure.get_figwidth() * 72 * 1.28)
    label = html.escape(title)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}" style="max-width:{width}px"', 1)
