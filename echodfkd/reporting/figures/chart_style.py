"""The style of every chart: colours for all kinds of colour vision, axes, and the most points of a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#b8a800", "#7f7f7f")
"""Okabe and Ito's colours, which stay apart in every common kind of colour vision, and grey."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
"""The ninth line has the first's colour again, so it has another dash and another marker."""
STAGE_COLOURS = {
    "source": "#009e73",
    "generator": "#d55e00",
    "teacher": "#e69f00",
    "students": "#0072b2",
    "evaluator": "#cc79a7",
}
INK, GRID, AXIS, QUIET = "#3c4650", "#e3e7eb", "#b4bcc4", "#77828c"
"""Text, grid, axes, published values. On the page these four follow its theme (`figure_files.inline_svg`)."""
MAX_POINTS = 400
"""Points of one line: longer curves are averaged in groups, so that the page does not grow with a run."""
WIDTH, HEIGHT = 5.6, 3.5
"""Inches of a usual chart: its text stays legible on a phone, 340 pixels wide."""


def series_style(number: int) -> dict[str, Any]:
    """Colour, marker and dash of the number-th series; 32 differ."""
    turn = number // len(PALETTE)
    marker = MARKERS[(number + 3 * turn) % len(MARKERS)]
    return {"color": PALETTE[number % len(PALETTE)], "marker": marker, "linestyle": DASHES[turn % len(DASHES)]}


def new_figure(width: float = WIDTH, height: float = HEIGHT) -> Figure:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def dress(axes: Any, x_label: str, y_label: str) -> None:
    """Labels, grid and spines of one pair of axes."""
    axes.set_xlabel(x_label, fontsize=10, color=INK)
    axes.set_ylabel(y_label, fontsize=10, color=INK)
    axes.tick_params(labelsize=9, colors=INK, length=3)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(AXIS)


def add_legend(figure: Figure, axes: Any) -> None:
    """Add a legend below the axes; none for a single series."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) < 2:
        return
    longest = max(len(label) for label in labels)
    columns = max(1, min(4, len(labels), int(70 / (longest + 6))))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5, labelcolor=INK
    )


def plain(label: str, most: int = 28) -> str:
    """A name as matplotlib shows it, cut to ``most`` letters: between dollars it would be read as a formula."""
    text = "".join(letter if letter.isprintable() else "?" for letter in label)
    shown = text if len(text) <= most else text[: most - 1] + "…"
    return shown.replace("$", r"\$").lstrip("_") or "?"  # matplotlib keeps labels that begin with _ out of a legend


def thin(values: np.ndarray) -> np.ndarray:
    """At most `MAX_POINTS` values: means of equal groups."""
    group = -(-len(values) // MAX_POINTS)
    if group <= 1:
        return values
    return np.array([values[start : start + group].mean() for start in range(0, len(values), group)])


def spread(count: int, most: int) -> Sequence[int]:
    """At most ``most`` of ``count`` positions, evenly spaced, for charts of very many cases."""
    return range(count) if count <= most else [int(place) for place in np.linspace(0, count - 1, most)]
