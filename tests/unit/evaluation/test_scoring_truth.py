"""Rows of a prediction against its truth that `test_scoring` does not cover: borders, timing, EF, published rules."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from skimage.measure import label

from echodfkd.core.records import TRUTH_UNKNOWN
from echodfkd.evaluation.against_truth import against_truth, phases, published, unit_of
from echodfkd.metrics.surface import surface_distance
from tests.helpers.echonet import beating_clip

CASE = beating_clip("0XA0", num_frames=60, size=64, fps=50.0, period=24, ed_frame=4)
CASE = dataclasses.replace(CASE, ed_frames=(4, 28, 52), es_frames=(16, 40))
TRUTH = CASE.truth_labels == 1


def values(rows) -> dict[str, float]:
    found = {row.metric: row.value for row in rows}
    assert len(found) == len(rows)
    return found


def test_borders_are_in_millimetres_where_the_scale_is_known():
    prob = np.roll(TRUTH, 3, axis=2).astype(np.float32)
    pixels = values(against_truth(prob, prob > 0.5, CASE))
    scaled = values(against_truth(prob, prob > 0.5, dataclasses.replace(CASE, spacing_mm=1.5)))
    wanted = surface_distance(prob > 0.5, TRUTH)
    for group, frames in (("all", range(60)), ("ed", [4, 28, 52]), ("es", [16, 40])):
        assert pixels[f"hd95_{group}_px"] == pytest.approx(wanted.hd95[list(frames)].mean(), abs=1e-12)
        assert pixels[f"assd_{group}_px"] == pytest.approx(wanted.assd[list(frames)].mean(), abs=1e-12)
        assert scaled[f"hd95_{group}_mm"] == pytest.approx(1.5 * pixels[f"hd95_{group}_px"], abs=1e-12)
    assert not {name for name in scaled if name.endswith("_px")}
    assert pixels["iou_es"] == pytest.approx(pixels["dice_es"] / (2 - pixels["dice_es"]), abs=0.01)


def test_the_reliability_rows_of_a_case_are_its_curve():
    prob = np.clip(0.6 * TRUTH + 0.3 * np.random.default_rng(0).random(TRUTH.shape), 0, 1)
    rows = {row.metric: row for row in against_truth(prob, prob > 0.5, CASE) if row.metric.startswith("reliability_")}
    place = np.minimum(prob * 15, 14).astype(int)
    assert set(rows) == {f"reliability_{number:02d}" for number in np.unique(place)}
    for name, row in rows.items():
        inside = place == int(name[-2:])
        assert row.n == inside.sum()
        assert row.value == pytest.approx(TRUTH[inside].mean(), abs=1e-12)
        assert row.threshold == pytest.approx(prob[inside].mean(), abs=5.1e-5)  # kept to four digits


def test_a_missed_ventricle_costs_the_diagonal():
    found = values(against_truth(np.zeros(TRUTH.shape), np.zeros_like(TRUTH), CASE))
    assert found["hd95_all_px"] == pytest.approx(math.hypot(64, 64), abs=1e-12)
    assert found["ece"] == pytest.approx(TRUTH.mean(), abs=1e-12) == found["brier"]


def test_one_annotated_beat_has_no_precision_and_all_beats_have():
    late = np.roll(TRUTH, 3, axis=0)
    late[:3] = TRUTH[0]
    labels = np.full(TRUTH.shape, TRUTH_UNKNOWN, np.uint8)
    labels[[4, 16]] = CASE.truth_labels[[4, 16]]
    one = dataclasses.replace(CASE, truth_labels=labels, ed_frames=(4,), es_frames=(16,))
    assert not {name for name in values(phases(late, one)) if "precision" in name or "recall" in name}
    found = values(phases(late, CASE))
    assert found["ed_error_frames"] == pytest.approx(3, abs=0.5)  # pixels tie beside an extremum
    assert found["ed_error_ms"] == pytest.approx(20 * found["ed_error_frames"], abs=1e-9)
    right = values(phases(TRUTH, CASE))
    assert [right[f"{phase}_{kind}"] for phase in ("ed", "es") for kind in ("precision", "recall")] == [1, 1, 1, 1]
    assert found["es_recall"] < 1


def test_ejection_fractions_of_a_shape_that_shrinks_evenly():
    """The ellipse's axes both go from 1 to 0.7: its volume to 0.343, its area to 0.49."""
    found = values(phases(TRUTH, CASE))
    for name in ("ef_area_length", "ef_simpson", "ef_blind"):
        assert found[name] == pytest.approx(100 * (1 - 0.343), abs=2)
    assert found["ef_area"] == pytest.approx(51, abs=2)
    assert math.isnan(values(phases(np.zeros_like(TRUTH), CASE))["ef_blind"])


def authors_afd(codes: np.ndarray, reference: int, sign: int) -> int:
    """Their search with scikit-image's labels: blocks of the z-scored area below its median, nearest edge, minimum."""
    area = (codes > 25).sum((1, 2)).astype(float)
    curve = sign * (area - area.mean()) / (area.std() or 1)
    below = curve < np.median(curve)
    blocks = label(below if below.any() else curve <= np.median(curve))
    edges = {n: np.flatnonzero(blocks == n)[[0, -1]] for n in range(1, blocks.max() + 1)}
    best = min(edges, key=lambda n: np.abs(edges[n] - reference).min())
    first, last = edges[best]
    return abs(first + int(np.argmin(curve[first : last + 1])) - reference)


@pytest.mark.parametrize("seed", range(5))
def test_published_rows_follow_the_authors_codes(seed):
    rng = np.random.default_rng(seed)
    prob = np.clip(TRUTH * rng.uniform(0.2, 0.9, TRUTH.shape) + rng.uniform(0, 0.15, TRUTH.shape), 0, 1)
    codes = (prob * 255).astype(np.uint8)
    found = {row.metric: row for row in published(prob, CASE)}
    assert found["published_afd_ed"].value == authors_afd(codes, 4, -1)
    assert found["published_afd_es"].value == authors_afd(codes, 16, 1)
    large = codes > 80
    for phase, frame in (("ed", 4), ("es", 16)):
        wanted = 2 * (large[frame] & TRUTH[frame]).sum() / (large[frame].sum() + TRUTH[frame].sum())
        assert found[f"published_dice_{phase}"].value == pytest.approx(wanted, abs=1e-12)
        assert found[f"published_dice_{phase}"].threshold == 80 / 255
    area = large.sum((1, 2))
    assert found["published_ef_area"].value == pytest.approx(100 * (area[4] - area[16]) / area[4], abs=1e-12)
    assert published(prob, dataclasses.replace(CASE, ed_frames=None, es_frames=None)) == []


@pytest.mark.parametrize("empty", [0.6, 1.0])
def test_published_rows_have_a_value_where_the_mask_is_empty_and_ours_have_none(empty):
    prob = np.clip(0.9 * TRUTH, 0, 1)
    prob[: round(empty * len(prob))] = 0
    found = {row.metric: row.value for row in published(prob, CASE)}
    codes = (prob * 255).astype(np.uint8)
    assert found["published_afd_ed"] == authors_afd(codes, 4, -1)
    assert found["published_afd_es"] == authors_afd(codes, 16, 1)
    assert found["published_ef_area"] == 0.0  # the mask is empty at ED
    ours = values(phases(prob > 0.5, CASE))
    assert math.isnan(ours["afd_es"])
    assert math.isnan(ours["ef_area"]) == (empty == 1.0)  # ours takes every ED frame, and one has a mask


def test_units():
    units = {"hd95_ed_mm": "mm", "assd_all_px": "px", "es_error_ms": "ms", "phase_ed_error_frames": "frames"}
    units |= {"ef_simpson": "percent", "dice_ed": "", "published_afd_es": "frames"}
    assert {name: unit_of(name) for name in units} == units
