"""A study as one picture: a row per student, a panel per question."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from echodfkd.reporting.figures.chart_style import GRID, INK, PALETTE

_SEED, _MEAN, _BASE = PALETTE[4], PALETTE[0], "#222222"


def study_chart(study: Mapping[str, Any]) -> bytes:
    """PNG: Dice and jitter (a dot per run, mean and 95 % interval over runs), weights and cost of every student.

    If all students cost the same, HD95 and calibration replace weights and cost.

    Args:
        study: `study.build_study`'s answer.
    """
    from matplotlib.figure import Figure

    names = list(study["students"])
    figure = Figure(figsize=(11.5, 1.3 + 0.34 * len(names)), layout="constrained", dpi=130)
    costs = [(s["parameters"] / 1e3, s["macs_per_frame"] / 1e6) for s in study["students"].values()]
    differ = len(set(costs)) > 1
    panels = figure.subplots(1, 4, sharey=True, width_ratios=(3, 3, 1.6, 1.6) if differ else (1, 1, 1, 1))
    _scores(panels[0], study, "dice_all", "Dice with the truth")
    _scores(panels[1], study, "area_jitter", "jitter (truth = 1)")
    if differ:
        _bars(panels[2], [weights for weights, _ in costs], "weights (thousands)")
        _bars(panels[3], [macs for _, macs in costs], f"MMAC per {study['size']} x {study['size']} frame")
    else:
        _scores(panels[2], study, "hd95_all_mm", "HD95 (mm)")
        _scores(panels[3], study, "ece", "calibration error")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    figure.suptitle(
        f"{study['study']}: {len(study['seeds'])} seeds, {study['steps']} steps of {study['clips_per_step']} clips;"
        f" dots are seeds, bars 95 % intervals, the dashed line is {study['baseline']}",
        fontsize=9,
        color=INK,
    )
    sink = io.BytesIO()
    figure.savefig(sink, format="png", facecolor="white", metadata={"Software": None})
    return sink.getvalue()


def _scores(axes: Any, study: Mapping[str, Any], metric: str, label: str) -> None:
    for y, student in enumerate(study["students"].values()):
        found = student["metrics"].get(metric)
        if found is None:
            continue
        axes.plot(found["runs"], [y] * len(found["runs"]), "o", color=_SEED, markersize=4, alpha=0.8)
        axes.plot([found["low"], found["high"]], [y, y], color=_MEAN, linewidth=1.4)
        axes.plot([found["mean"]], [y], "D", color=_MEAN, markersize=5)
    base = study["students"][study["baseline"]]["metrics"].get(metric)
    if base is not None:
        axes.axvline(base["mean"], color=_BASE, linestyle=(0, (5, 3)), linewidth=1)
    _dress(axes, label)


def _bars(axes: Any, values: list[float], label: str) -> None:
    axes.barh(range(len(values)), values, height=0.6, color=_SEED)
    _dress(axes, label)


def _dress(axes: Any, label: str) -> None:
    axes.set_xlabel(label, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, length=3)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
