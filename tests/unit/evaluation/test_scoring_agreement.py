"""The study of the judge's agreement with Dice."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import ndimage, stats

from echodfkd.core.records import CHAMBER_NAMES, TRUTH_UNKNOWN
from echodfkd.evaluation.agreement import agreement_study, spoil
from echodfkd.evaluation.mask_faults import unseen_faults
from echodfkd.models.judges.build import load_judge
from echodfkd.sources.phantom.source import default_phantom


@pytest.fixture(scope="module")
def cases():
    source = default_phantom(seed=8_123_457, num_frames=4, fps=8.0, size=56, case_frames=4)
    return [source.case(number) for number in range(4)]


class Oracle:
    """A judge that knows the answer: Dice of each mask with the first mask it is shown of a video."""

    judge_id = "oracle"

    def __init__(self) -> None:
        self.truth: dict[bytes, np.ndarray] = {}

    def score(self, video: np.ndarray, lv_mask: np.ndarray) -> dict[str, float]:
        truth = self.truth.setdefault(video.tobytes(), lv_mask)
        return {"judge_score": float(2 * (truth & lv_mask).sum() / (truth.sum() + lv_mask.sum()))}


def test_spoiled_masks(cases):
    case = cases[0]
    found = spoil(case.truth_labels, case.class_names)
    truth = case.truth_labels == 1
    assert np.array_equal(found["truth"], truth)
    assert np.array_equal(found["dilated 4"], ndimage.binary_dilation(truth, np.ones((1, 5, 5))))
    assert np.array_equal(found["eroded 8"], ndimage.binary_erosion(truth, np.ones((1, 9, 9))))
    assert np.array_equal(found["swapped for LA"], case.truth_labels == CHAMBER_NAMES.index("LA"))
    assert not {name for name in spoil(truth.astype(np.uint8), ("background", "LV")) if "swapped" in name}


@pytest.fixture(scope="module")
def oracle_study(cases):
    def masks(case):
        truth = case.truth_labels == 1
        return {"small": ndimage.binary_erosion(truth, np.ones((1, 3, 3))), "late": np.roll(truth, 1, axis=0)}

    return agreement_study(Oracle(), ((case, masks(case)) for case in cases))


def test_an_oracle_agrees_and_the_numbers_are_scipys(oracle_study):
    study = oracle_study
    assert {row.mask for row in study.rows if not row.spoiled} == {"small", "late"}
    score, dice = np.array([(row.judge_score, row.dice) for row in study.rows if not row.unseen]).T
    assert study.overall.spearman.mean == pytest.approx(stats.spearmanr(score, dice).statistic, abs=1e-12)
    assert study.overall.kendall.mean == pytest.approx(stats.kendalltau(score, dice).statistic, abs=1e-12)
    assert study.overall.spearman.mean > 0.98  # Dice of all frames at once against the mean over frames
    assert study.students.spearman.n == 8
    assert study.overall.spearman.n == study.spoiled.spearman.n + 8
    assert json.loads(json.dumps(study.to_json(), allow_nan=False))["judge_id"] == "oracle"


def test_the_embedded_judge_follows_dice_over_spoiled_masks(cases):
    """Its recipe measured 0.8 and more over 24 cases; four give a wide interval around that."""
    study = agreement_study(load_judge("embedded"), ((case, {}) for case in cases))
    assert study.spoiled.spearman.mean > 0.6
    assert study.spoiled.spearman.low > 0.4
    assert study.spoiled.within_case.n == 4
    assert study.students.spearman.n == 0
    assert math.isnan(study.students.spearman.mean)


def test_unseen_faults_are_judged_by_bands(oracle_study):
    unseen = [row for row in oracle_study.rows if row.unseen]
    assert {"late 3", "frozen at ED", "turned 45", "narrow 0.7", "apex cut 0.25", "leak into LA", "holes"} <= {
        row.mask for row in unseen
    }
    good = [row for row in unseen if row.dice >= 0.7]
    assert 0 < len(good) < len(unseen)
    band = oracle_study.bands["unseen, Dice >= 0.7"].spearman
    assert band.n == len(good)
    assert band.mean == pytest.approx(stats.spearmanr(*np.array([(r.judge_score, r.dice) for r in good]).T).statistic)
    assert oracle_study.over_time["truth"]["dice"] == 1.0
    assert oracle_study.over_time["truth"]["judge_motion"] is None  # this judge sees no time


def test_the_embedded_judge_sees_a_mask_that_stands_still_or_is_late():
    case = default_phantom(seed=8_123_458, num_frames=32, fps=32.0, size=56, case_frames=32).case(0)
    truth, judge = case.truth_labels == 1, load_judge("embedded")
    masks = {"truth": truth, **unseen_faults(truth, {}, ed=case.ed_frames[0], es=case.es_frames[0])}
    motion = {name: judge.score(case.video, mask)["judge_motion"] for name, mask in masks.items()}
    assert motion["truth"] > 0.85
    assert motion["frozen at ED"] == motion["frozen at ES"] == 0.0
    assert motion["late 6"] + 0.2 < motion["late 3"] + 0.1 < motion["truth"]
    assert motion["turned 20"] > 0.85  # wrong in place, right in time


def test_faults_of_masks_by_hand():
    mask = np.zeros((2, 40, 40), bool)
    mask[0, 10:30, 15:25] = True  # 20 rows, 10 columns
    atrium = np.zeros_like(mask)
    atrium[0, 30:40, 15:25] = True
    found = unseen_faults(mask, {"LA": atrium}, ed=0, es=None)
    assert np.array_equal(found["late 1"], mask[::-1])
    assert found["frozen at ED"].sum() == 2 * mask.sum()
    assert "frozen at ES" not in found
    assert "with myocardium" not in found
    assert found["apex cut 0.1"][0].sum() == 18 * 10
    assert not found["apex cut 0.1"][0, 11].any()
    assert not found["base cut 0.25"][0, 25:].any()
    assert found["leak into LA"].sum() == mask.sum() + 3 * 10
    assert found["long 1.2"][0].any(1).sum() == pytest.approx(24, abs=1)
    assert found["narrow 0.7"][0].any(0).sum() == pytest.approx(7, abs=1)
    quarter = unseen_faults(mask, {}, ed=None, es=None)["turned 45"][0]
    assert quarter.sum() == pytest.approx(200, abs=20)
    assert quarter.any(1).sum() == pytest.approx(30 / math.sqrt(2), abs=2)


def test_only_annotated_frames_count(cases):
    labels = cases[0].truth_labels.copy()
    labels[1:] = TRUTH_UNKNOWN
    one = dataclasses.replace(cases[0], truth_labels=labels)
    truth = cases[0].truth_labels == 1
    wrong = truth.copy()
    wrong[1:] = False
    study = agreement_study(
        Oracle(), [(one, {"right where known": wrong}), (dataclasses.replace(one, truth_labels=None), {})]
    )
    assert [row.dice for row in study.rows if not row.spoiled] == [1.0]
    assert all(math.isnan(row.judge_motion) for row in study.rows)
    assert {row.clip_id for row in study.rows} == {one.clip_id}
