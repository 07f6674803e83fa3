"""A generator's work (seconds of its device for a clip, clips of a GPU-hour), and that of the privacy filter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from echodfkd.reporting.rows import RunRows, column

STAGE = "generator"


def generator_facts(rows: RunRows, stage: str, *, clips: int, busy_s: float) -> dict[str, float]:
    """Of the stage of a generator: ``clip_s``, and ``clips_per_gpu_hour`` if its actors hold GPUs.

    ``clips`` counts those that it made, bad ones included.
    """
    name, _, part = stage.partition(".")
    if name != STAGE or not clips or not busy_s:
        return {}
    found, gpus = {"clip_s": busy_s / clips}, _num_gpus(rows.config, part)
    return found | ({"clips_per_gpu_hour": 3600 * clips / (busy_s * gpus)} if gpus else {})


def _num_gpus(config: Mapping[str, Any], part: str) -> float:
    """GPUs of one actor by the run's stored config, which may be a stranger's."""
    node: Any = config.get("source")
    for key in (*(("parts", part) if part else ()), "generator", "num_gpus"):
        node = node.get(key) if isinstance(node, Mapping) else None
    return float(node) if isinstance(node, int | float) and node > 0 else 0.0


def privacy_facts(rows: RunRows) -> dict[str, int]:
    """``rejected``: indices that the privacy filter kept from training. Empty for a run without one."""
    section = rows.config.get("privacy")
    if not (isinstance(section, Mapping) and section.get("encoder")):
        return {}
    slots, indices, stages = (column(rows.quarantine, name) for name in ("slot", "index", "stage"))
    bad = zip(slots[stages == "privacy"], indices[stages == "privacy"], strict=True)
    return {"rejected": len({(slot, index) for slot, index in bad if slot >= 0})}


def generator_sentences(summary: dict[str, Any]) -> list[str]:
    """Both in words, for a page."""
    sentences = []
    if "rejected" in summary["privacy"]:
        tried = summary["ledger"]["clips"] + summary["privacy"]["rejected"]
        sentences.append(f"The privacy filter rejected {summary['privacy']['rejected']:,} of {tried:,} clips.")
    for stage, facts in summary["pipeline"]["stages"].items():
        if "clip_s" in facts:
            part = stage.partition(".")[2]
            who = f"The generator of {part}" if part else "The generator"
            rate = facts.get("clips_per_gpu_hour")
            gpu = f", {rate:,.0f} clips in an hour of a GPU" if rate is not None else ""
            sentences.append(f"{who} made {facts['clips']:,} clips in {facts['clip_s']:.3g} s of work each{gpu}.")
    return sentences
