"""Scores of one case: discs with known overlap and timing, what is skipped, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from echodfkd.core.errors import RunError
from echodfkd.core.records import TRUTH_UNKNOWN, CaseScore, VideoClip
from echodfkd.evaluation.case import ScoringRules, score_case
from echodfkd.evaluation.predictions import Prediction, predict_student
from echodfkd.models.students.output import StudentOutput
from tests.helpers.beating import ED, ES, SIZE, T, beating_case, disc, radius_at


class CountingJudge:
    """Rates a mask by its share of the picture: a judge that a test can follow."""

    judge_id = "counting-1"

    def score(self, video: np.ndarray, lv_mask: np.ndarray) -> dict[str, float]:
        assert video.shape == lv_mask.shape
        assert lv_mask.dtype == bool
        return {"judge_score": float(lv_mask.mean())}


def scores(
    prob: np.ndarray,
    case: VideoClip,
    *,
    threshold: float = 0.5,
    judge: CountingJudge | None = None,
    teacher_prob: np.ndarray | None = None,
    student: str = "c31",
    step: int = 100,
) -> dict[str, CaseScore]:
    rules = ScoringRules("teacher-1", threshold, judge)
    teacher = None if teacher_prob is None else Prediction(teacher_prob)
    rows = score_case(Prediction(prob), case, rules, student=student, step=step, teacher=teacher)
    assert len({row.metric for row in rows}) == len(rows)
    return {row.metric: row for row in rows}


def test_a_perfect_prediction():
    truth = disc(radius_at(np.arange(T)))
    found = scores(truth.astype(np.float32), beating_case(), judge=CountingJudge(), teacher_prob=truth * 0.9)
    for metric in ("dice_all", "dice_ed", "dice_es", "iou_all", "dice_teacher", "area_jitter"):
        assert found[metric].value == 1
    for metric in ("afd_ed", "afd_es", "ed_error_frames", "es_error_frames"):
        assert found[metric].value == 0
        assert found[metric].unit == "frames"
    area = truth.sum((1, 2))
    assert found["ef_area"].value == pytest.approx(100 * (area[0] - area[8]) / area[0], abs=1e-12)
    assert found["ef_area"].unit == "percent"
    assert found["judge_score"].value == pytest.approx(truth.mean())
    counts = {"dice_all": T, "dice_ed": 3, "dice_es": 2, "afd_ed": 3, "es_error_frames": 2, "temporal_dice": T - 1}
    assert {metric: found[metric].n for metric in counts} == counts


def test_rows_carry_who_and_against_what():
    case = beating_case()
    prob = disc(radius_at(np.arange(T))).astype(np.float32)
    found = scores(prob, case, judge=CountingJudge(), teacher_prob=prob)
    references = {"dice_teacher": "teacher", "judge_score": "counting-1", "temporal_dice": "", "afd_ed": "truth"}
    assert {metric: found[metric].reference for metric in references} == references
    own = {"ece": None, "brier": None, "published_afd_ed": 25 / 255, "published_afd_es": 25 / 255}
    own |= dict.fromkeys(("published_dice_ed", "published_dice_es", "published_ef_area"), 80 / 255)
    for row in found.values():
        if row.metric.startswith("reliability_"):
            continue  # its threshold is the probability that stands against its value
        who = (row.clip_id, row.teacher_id, row.student, row.step, row.threshold)
        assert who == ("fake-0", "teacher-1", "c31", 100, own.get(row.metric, 0.5))
    assert own.keys() <= found.keys()
    alone = scores(prob, case, student="", step=-1)
    assert (alone["dice_all"].student, alone["dice_all"].step) == ("", -1)
    assert "dice_teacher" not in alone
    assert "judge_score" not in alone


def test_a_moved_and_late_prediction():
    late = disc(radius_at(np.arange(T) - 2), shift=3)
    found = scores(late.astype(np.float32), beating_case())
    truth = disc(radius_at(np.arange(T)))

    def mean_dice(frames: range | tuple[int, ...]) -> float:
        each = [2 * (late[t] & truth[t]).sum() / (late[t].sum() + truth[t].sum()) for t in frames]
        return sum(each) / len(each)

    assert found["dice_all"].value == pytest.approx(mean_dice(range(T)), abs=1e-12)
    assert found["dice_ed"].value == pytest.approx(mean_dice(ED), abs=1e-12)
    assert found["dice_es"].value == pytest.approx(mean_dice(ES), abs=1e-12)
    unions = [(late[t] & truth[t]).sum() / (late[t] | truth[t]).sum() for t in range(T)]
    assert found["iou_all"].value == pytest.approx(np.mean(unions), abs=1e-12)
    # Two frames late everywhere: areas of pixels have ties of one frame around an extremum.
    assert found["afd_es"].value == pytest.approx(2, abs=1)
    assert found["es_error_frames"].value == pytest.approx(2, abs=1)
    assert found["ed_error_frames"].value == pytest.approx(2, abs=1)
    steady = [2 * (late[t] & late[t + 1]).sum() / (late[t].sum() + late[t + 1].sum()) for t in range(T - 1)]
    assert found["temporal_dice"].value == pytest.approx(np.mean(steady), abs=1e-12)


def test_the_threshold_is_strict_and_used_for_both_models():
    truth = disc(radius_at(np.arange(T)))
    prob = np.where(truth, 0.31, 0.3).astype(np.float64)
    assert scores(prob, beating_case(), threshold=0.3)["dice_all"].value == 1
    assert scores(prob, beating_case(), threshold=0.31)["dice_all"].value == 0
    assert scores(prob, beating_case(), threshold=0.3, teacher_prob=prob)["dice_teacher"].value == 1


def test_frames_and_pixels_of_unknown_truth_are_skipped():
    labels = np.full((T, SIZE, SIZE), TRUTH_UNKNOWN, np.uint8)
    truth = disc(radius_at(np.arange(T)))
    labels[[0, 8]] = truth[[0, 8]]
    labels[8, :, 24:] = TRUTH_UNKNOWN
    prob = truth.astype(np.float32)
    prob[:, :, 24:] = 1.0  # wrong only where nobody knows, but for the ED frame
    found = scores(prob, beating_case(truth_labels=labels))
    wrong = prob[0] > 0.5
    ed = 2 * (wrong & truth[0]).sum() / (wrong.sum() + truth[0].sum())
    assert (found["dice_es"].value, found["dice_es"].n) == (1, 1)
    assert (found["dice_ed"].value, found["dice_ed"].n) == (pytest.approx(ed, abs=1e-12), 1)
    assert (found["dice_all"].value, found["dice_all"].n) == (pytest.approx((1 + ed) / 2, abs=1e-12), 2)
    assert "area_jitter" not in found  # neighbours of annotated frames are unknown


def test_a_case_without_truth_or_phases_gives_what_it_can():
    prob = disc(radius_at(np.arange(T))).astype(np.float32)
    bare = beating_case(truth_labels=None, ed_frames=None, es_frames=None)
    assert set(scores(prob, bare, judge=CountingJudge(), teacher_prob=prob)) == {
        "temporal_dice",
        "stray_share",
        "dice_teacher",
        "judge_score",
    }
    without_ed = set(scores(prob, beating_case(ed_frames=None)))
    assert {"dice_all", "iou_es", "hd95_all_px", "afd_es", "es_error_ms", "es_recall", "area_jitter"} <= without_ed
    assert not {name for name in without_ed if "_ed" in name or name.startswith("ef_")}


def test_an_empty_prediction_scores_zero_and_finds_no_beat():
    found = scores(np.zeros((T, SIZE, SIZE), np.float32), beating_case())
    assert found["dice_all"].value == found["iou_all"].value == 0
    for metric in ("afd_ed", "ed_error_frames", "ef_area"):
        assert math.isnan(found[metric].value)


def test_a_prediction_that_is_not_finite_is_refused():
    prob = np.zeros((T, SIZE, SIZE), np.float32)
    prob[3:5, 0, 0] = np.nan
    with pytest.raises(RunError, match="student c31 at step 100 predicts values that are not finite in 2 of 40 frames"):
        scores(prob, beating_case())
    prob[:] = np.inf
    with pytest.raises(RunError, match="teacher teacher-1 predicts values that are not finite in 40 of 40 frames"):
        scores(prob, beating_case(), student="", step=-1)


class Threshold(nn.Module):
    """Logits from grey levels, with dropout that only evaluation mode switches off."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.05))
        self.dropout = nn.Dropout(0.5)

    def forward(self, video_BTHW: torch.Tensor) -> StudentOutput:
        assert video_BTHW.dtype == torch.uint8
        assert video_BTHW.ndim == 4
        return StudentOutput(self.dropout((video_BTHW.float() - 100) * self.scale).unsqueeze(2))


def test_predict_student_is_the_sigmoid_of_the_logits_in_evaluation_mode():
    video = beating_case().video
    network = Threshold().train()
    prob = predict_student(network, video, classes=["LV"], device="cpu").lv_prob
    assert (prob.dtype, prob.shape) == (np.float32, video.shape)
    wanted = 1 / (1 + np.exp(-(video.astype(np.float64) - 100) * 0.05))
    np.testing.assert_allclose(prob, wanted, atol=1e-6)  # float32
    assert network.training  # left as it came
