"""The teacher's work beside its scores: hits of its cache, and clips that were taught without some members."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from echodfkd.reporting.rows import RunRows, column

HIT, MISS, REMEMBERED = "teacher_cache", "teacher_uncached", "teacher_remembered"
"""Of the spans of a teacher, or with ".NAME" of an ensemble's member, clips that were in its cache and that were not,
and frames that its actor remembered: no stages of their own."""


def is_stage(name: str) -> bool:
    """Whether spans of this name are work, and not a count of masks that were kept."""
    return name.partition(".")[0] not in (HIT, MISS, REMEMBERED)


def cache_facts(rows: RunRows, stage: str) -> dict[str, Any]:
    """Of one stage: ``cached_clips`` and ``remembered_frames`` if there are any, ``cache_hit_rate`` and
    ``cache_bytes_per_clip``.

    The bytes are those of the entries that were read and written, over all clips that were looked up. Rows of older
    versions do not have them, nor do they count what was not in the cache: then only ``cached_clips`` is given.
    """
    name, dot, member = stage.partition(".")
    if name != "teacher":
        return {}
    stages, clips, size = (column(rows.spans, key) for key in ("stage", "clips", "bytes"))
    hits, misses = (int(clips[stages == kind + dot + member].sum()) for kind in (HIT, MISS))
    found: dict[str, Any] = {"cached_clips": hits} if hits else {}
    if frames := int(column(rows.spans, "frames")[stages == REMEMBERED + dot + member].sum()):
        found["remembered_frames"] = frames
    moved = size[np.isin(stages, [HIT + dot + member, MISS + dot + member])].astype(np.float64)
    if hits + misses and np.isfinite(moved).all():
        found["cache_hit_rate"] = hits / (hits + misses)
        found["cache_bytes_per_clip"] = float(moved.sum()) / (hits + misses)
    return found


def dropped_clips(rows: RunRows) -> dict[str, int]:
    """Member -> clips that were taught without it, of those whose training is published."""
    return dict(sorted(Counter(rows.dropped["member"].to_pylist()).items()))


def routed_clips(rows: RunRows, strata: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Route -> ``clips`` that its members taught, and the teacher's ``scores`` on the cases of this route.

    Args:
        rows: of a run.
        strata: `comparisons.strata_scores` of the teacher; it has routes if the cases have several.
    """
    counts = Counter(route for route in rows.ledger["route"].to_pylist() if route)
    scores = strata.get("route", {})
    return {route: {"clips": counts[route], "scores": scores.get(route, {})} for route in sorted({*counts, *scores})}


def teacher_sentences(summary: dict[str, Any]) -> list[str]:
    """The same in words, for a page."""
    sentences = [
        f"{count:,} {'clip was' if count == 1 else 'clips were'} taught without {member}, which had no usable mask."
        for member, count in summary["teacher"]["dropped"].items()
    ]
    for route, facts in summary["teacher"]["routes"].items():
        dice = facts["scores"].get("dice_all", {}).get("mean")
        score = "" if dice is None else f", with a Dice of {dice:.3f} on the cases that go to it"
        sentences.append(f"{facts['clips']:,} clips were taught by {route}{score}.")
    for stage, facts in summary["pipeline"]["stages"].items():
        who = stage.partition(".")[2] or "the teacher"
        if "remembered_frames" in facts:
            sentences.append(f"{facts['remembered_frames']:,} frames' masks of {who} were remembered, not made again.")
        if "cache_hit_rate" in facts:
            sentences.append(
                f"{facts['cache_hit_rate']:.0%} of the masks of {who} came out of the cache, which holds"
                f" {facts['cache_bytes_per_clip']:,.0f} bytes a clip."
            )
    return sentences
