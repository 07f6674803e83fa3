"""Scores of the heads: discs with known overlap and timing, and rows only where there is something to score."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from echodfkd.core.errors import ClipError, RunError
from echodfkd.core.records import CHAMBER_NAMES, TRUTH_UNKNOWN, Conditions, VideoClip
from echodfkd.evaluation.case import ScoringRules, score_case
from echodfkd.evaluation.heads import score_heads
from echodfkd.evaluation.predictions import Prediction, predict_student, predict_teacher
from echodfkd.metrics.beat import beat_targets
from echodfkd.models.students.build import build_student
from tests.helpers.beating import PERIOD, SIZE, T, beating_case, disc, radius_at
from tests.helpers.teachers import FloatTeacher

LV_RADIUS = radius_at(np.arange(T))


def labels() -> np.ndarray:
    """A beating LV, and a still LA of 4 columns at the right edge."""
    found = disc(LV_RADIUS).astype(np.uint8)
    found[:, :, 28:] = CHAMBER_NAMES.index("LA")
    return found


def a_case(**changes: object) -> VideoClip:
    return beating_case(**{"truth_labels": labels(), "class_names": CHAMBER_NAMES} | changes)


def lv_prob() -> np.ndarray:
    return disc(LV_RADIUS).astype(np.float32)


def values(prediction: Prediction, case: VideoClip, teacher: Prediction | None = None) -> dict[str, float]:
    rows = score_heads(prediction, case, threshold=0.5, teacher=teacher)
    assert len({row.metric for row in rows}) == len(rows)
    return {row.metric: row.value for row in rows}


def test_a_student_of_the_lv_alone_has_no_further_rows() -> None:
    assert values(Prediction(lv_prob()), a_case(), Prediction(lv_prob())) == {}


def test_classes_are_scored_by_name_with_truth_and_teacher() -> None:
    left_half = np.zeros((T, SIZE, SIZE), np.float32)
    left_half[:, :, 28:30] = 0.9  # half of the LA
    nothing = np.zeros_like(left_half)
    student = Prediction(lv_prob(), {"LA": left_half, "RV": nothing})
    teacher = Prediction(lv_prob(), {"LA": left_half * 0.6, "RV": left_half})
    found = values(student, a_case(), teacher)
    assert found == {
        "dice_la": pytest.approx(2 * 2 / (2 + 4)),
        "dice_teacher_la": 1.0,
        "dice_rv": 1.0,  # there is none, and it says so
        "dice_teacher_rv": 0.0,
    }
    assert set(values(student, a_case(class_names=("background", "LV", "?", "LA")))) == {"dice_la"}


def test_unknown_frames_and_pixels_count_in_no_class() -> None:
    truth = labels()
    truth[5:] = TRUTH_UNKNOWN
    truth[0, :, 30:] = TRUTH_UNKNOWN
    half = np.zeros((T, SIZE, SIZE), np.float32)
    half[:, :, 28:30] = 1.0
    rows = score_heads(Prediction(lv_prob(), {"LA": half}), a_case(truth_labels=truth), threshold=0.5)
    assert [(row.metric, row.n) for row in rows] == [("dice_la", 5)]
    assert rows[0].value == pytest.approx((1 + 4 * (2 * 2 / (2 + 4))) / 5)


def test_the_phase_is_scored_by_the_frames_that_it_finds() -> None:
    true_phase = (LV_RADIUS - 5) / 6
    found = values(Prediction(lv_prob(), phase=true_phase.astype(np.float32)), a_case())
    assert (found["phase_ed_error_frames"], found["phase_es_error_frames"]) == (0, 0)
    assert found["phase_pearson"] > 0.99  # phase against area, which is its square
    late = np.roll(np.tile(true_phase[:PERIOD], 3), 2)[:T]
    found = values(Prediction(lv_prob(), phase=late.astype(np.float32)), a_case())
    assert found["phase_es_error_frames"] == 2
    assert found["phase_ed_error_frames"] == 2
    area = disc(LV_RADIUS).sum((1, 2))
    assert found["phase_pearson"] == pytest.approx(np.corrcoef(late, area)[0, 1], abs=1e-6)


def test_phases_need_known_frames_and_correlation_a_whole_annotation() -> None:
    phase = np.linspace(0, 1, T).astype(np.float32)
    truth = labels()
    truth[3] = TRUTH_UNKNOWN
    found = values(Prediction(lv_prob(), phase=phase), a_case(truth_labels=truth, ed_frames=None))
    assert set(found) == {"phase_es_error_frames"}
    unknown = values(Prediction(lv_prob(), phase=np.full(T, np.nan, np.float32)), a_case())
    assert all(math.isnan(value) for value in unknown.values())
    assert len(unknown) == 3


def test_the_ejection_fraction_is_scored_where_it_is_known() -> None:
    assert values(Prediction(lv_prob(), ef_percent=52.5), a_case()) == {"ef_head_abs_error": 7.5}
    assert values(Prediction(lv_prob(), ef_percent=52.5), a_case(conditions=Conditions())) == {}


def test_rows_join_those_of_the_lv_with_their_units() -> None:
    prediction = Prediction(lv_prob(), {"LA": lv_prob()}, phase=LV_RADIUS / 20, ef_percent=50.0)
    rules, options = ScoringRules("t"), {"student": "c31", "step": 1, "teacher": prediction}
    alone = {row.metric: row for row in score_case(Prediction(lv_prob()), a_case(), rules, **options)}
    rows = {row.metric: row for row in score_case(prediction, a_case(), rules, **options)}
    assert {name: rows[name] for name in alone} == alone
    assert set(rows) - set(alone) == {
        *("dice_la", "dice_teacher_la", "phase_ed_error_frames", "phase_es_error_frames", "phase_pearson"),
        "ef_head_abs_error",
    }
    assert (rows["ef_head_abs_error"].unit, rows["phase_ed_error_frames"].unit) == ("percent", "frames")
    assert rows["dice_teacher_la"].reference == "teacher"


def test_a_class_that_is_not_finite_is_refused() -> None:
    broken = lv_prob()
    broken[3, 0, 0] = np.nan
    prediction = Prediction(lv_prob(), {"LA": broken})
    with pytest.raises(RunError, match=r"student c31 at step 1 predicts values that are not finite in 1 of 40 frames"):
        score_case(prediction, a_case(), ScoringRules("t"), student="c31", step=1)


@pytest.mark.parametrize("classes", [["LV"], ["LA", "LV", "RV"]])
def test_a_students_outputs_get_their_names(classes: list[str]) -> None:
    torch.manual_seed(0)
    network = build_student(blocks=2, layers=1, filters=3, norm="group", classes=classes, tasks=["phase", "ef"])
    found = predict_student(network.train(), a_case().video, classes=classes, device="cpu")
    assert network.training
    network.eval()
    with torch.no_grad():
        output = network(torch.from_numpy(a_case().video)[None])
    prob = output.mask_logits.sigmoid()[0].numpy()
    assert np.array_equal(found.lv_prob, prob[:, classes.index("LV")])
    assert set(found.others) == set(classes) - {"LV"}
    for name, other in found.others.items():
        assert np.array_equal(other, prob[:, classes.index(name)])
    assert np.array_equal(found.phase, output.phase_logits.sigmoid()[0].numpy())
    assert found.ef_percent == pytest.approx(100 * float(output.ef[0]))


def test_a_plain_students_prediction_is_the_same_array() -> None:
    network = build_student(blocks=2, layers=1, filters=3, norm="group")
    found = predict_student(network, a_case().video, classes=["LV"], device="cpu")
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(a_case().video)[None]).mask_logits
    assert np.array_equal(found.lv_prob, logits.sigmoid()[0, :, 0].numpy())
    assert (found.others, found.phase, found.ef_percent) == ({}, None, None)


class FakeTeacher(FloatTeacher):
    """LV as it is, LA everywhere."""

    teacher_id = "fake-1"
    class_names = ("background", "LA", "LV")

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        assert video_NTHW.shape == (1, T, SIZE, SIZE)
        return np.stack([np.ones((T, SIZE, SIZE), np.float32), lv_prob()], axis=1)[None]


class BrokenTeacher(FakeTeacher):
    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        return super().prob(video_NTHW) * np.nan


def test_a_teachers_mask_that_is_not_finite_is_a_fault_of_its_case() -> None:
    with pytest.raises(ClipError, match="the teacher fake-1 gave a mask that is not finite"):
        predict_teacher(BrokenTeacher(), a_case(), classes=["LV"], tasks=[])


def test_the_teacher_says_what_is_asked_and_no_more() -> None:
    found = predict_teacher(FakeTeacher(), a_case(), classes=["LV"], tasks=[])
    assert np.array_equal(found.lv_prob, lv_prob())
    assert (found.others, found.phase, found.ef_percent) == ({}, None, None)
    found = predict_teacher(FakeTeacher(), a_case(), classes=["LV", "LA"], tasks=["ef", "phase"])
    assert found.others["LA"].min() == 1
    phase, ef = beat_targets(lv_prob()[None], fps=32.0)
    assert np.array_equal(found.phase, phase[0])
    assert found.ef_percent == pytest.approx(100 * float(ef[0]))
