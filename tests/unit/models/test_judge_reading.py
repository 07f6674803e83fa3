"""What a judge reads from a video alone: the valve's cycle and the ejection fraction."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch

from echodfkd.config.sections.judge import EF_PLACE, JudgePromptsConfig
from echodfkd.core.records import JUDGE_STEP, TRUTH_UNKNOWN
from echodfkd.evaluation.judge import VideoReader, read_case
from echodfkd.metrics.blind_events import detect_events
from echodfkd.models.judges.build import load_judge
from echodfkd.models.judges.embedded import TextTower
from echodfkd.models.judges.protocol import Judge
from echodfkd.models.judges.reading import VideoReading, fill_prompts, valve_cycle, zero_shot_value
from echodfkd.reporting.summary import EF_METRICS
from echodfkd.training.judge.captions import CHOICES, EF, FINDINGS, NUMBERS, Number, draw_numbers
from echodfkd.training.judge.patients import JudgedPatients
from tests.helpers.echonet import beating_clip


def test_the_sum_of_open_less_closed_runs_with_the_volume():
    """While the valve is open the ventricle fills: the curve has its maxima at ED, whatever the captions' bias."""
    t = np.arange(160)
    is_open = (t % 40) >= 18
    closed, opened = 0.3 - 0.02 * is_open, 0.2 + 0.02 * is_open
    curve = valve_cycle(closed, opened, sign=-1)
    assert curve.mean() == pytest.approx(0, abs=1e-12)
    assert curve.std() == pytest.approx(1, abs=1e-12)
    found = detect_events(curve, fps=32.0)
    assert [f for f in found.ed_frames if f not in (0, 159)] == [39, 79, 119]
    assert list(found.es_frames) == [17, 57, 97, 137]
    np.testing.assert_allclose(valve_cycle(closed, opened, sign=1), -curve, atol=1e-12)
    # The authors' curve is the z-scored sum of closed less open; detrended, both are one.
    total = np.cumsum(closed - opened)
    straight = np.polyval(np.polyfit(t, total, 1), t)
    theirs = np.cumsum(closed - opened) - straight
    assert np.corrcoef(theirs, valve_cycle(closed, opened, sign=1))[0, 1] > 0.99
    assert not valve_cycle(np.ones(9), np.zeros(9), sign=1).any()


def slow_value(similarity: np.ndarray, values: np.ndarray) -> float:
    lists = [[v for _, v in sorted(zip(-frame, values, strict=True), key=lambda p: p[0])] for frame in similarity]
    means = [statistics.fmean(place) for place in zip(*lists, strict=True)]
    return statistics.median_low(means[: int(len(means) * 0.2)])


@pytest.mark.parametrize("seed", range(5))
def test_zero_shot_value_agrees_with_plain_python_and_finds_a_clear_answer(seed):
    rng = np.random.default_rng(seed)
    values = np.array(list(range(101)) * 2, float)
    similarity = rng.normal(size=(7, 202))
    assert zero_shot_value(similarity, values) == pytest.approx(slow_value(similarity, values), abs=1e-12)
    truth = rng.integers(25, 75)
    clear = -np.abs(values - truth)[None] + rng.normal(0, 0.5, (30, 202))
    assert zero_shot_value(clear, values) == pytest.approx(truth, abs=2)  # the ranks' noise, averaged over frames


def test_prompts_are_filled_with_every_percent():
    captions, values = fill_prompts(JudgePromptsConfig().ef, EF_PLACE)
    assert len(captions) == len(values) == 202
    assert captions[55] == "THE LEFT VENTRICULAR EJECTION FRACTION IS ESTIMATED TO BE 55% "
    assert captions[101 + 7] == "LV EJECTION FRACTION IS 7%. "
    assert (values[55], values[108]) == (55, 7)


class Reader:
    """Gives a reading that it was told."""

    judge_id = "reader-1"

    def __init__(self, cycle: np.ndarray) -> None:
        self.cycle = (cycle - cycle.mean()) / cycle.std()

    def score(self, video: np.ndarray, lv_mask: np.ndarray) -> dict[str, float]:
        return {"judge_score": float(lv_mask.mean()), "judge_motion": 0.5}

    def read_video(self, video: np.ndarray) -> VideoReading:
        assert len(video) == len(self.cycle)
        return VideoReading(self.cycle, 61.5, self.cycle)


def test_readings_become_rows_of_nobodys_mask():
    case = beating_clip("0XA0", num_frames=60, size=64)
    judge: Judge = Reader(case.truth_labels.mean((1, 2)))
    rows = {row.metric: row for row in read_case(judge, case, teacher_id="t")}
    assert {(row.student, row.step, row.reference) for row in rows.values()} == {("", JUDGE_STEP, "reader-1")}
    assert rows["judge_ef"].value == 61.5
    assert rows["judge_truth_score"].value == pytest.approx((case.truth_labels == 1).mean())
    assert rows["judge_truth_motion"].value == 0.5
    unknown = case.truth_labels.copy()
    unknown[7] = TRUTH_UNKNOWN  # a frame that nobody has traced: the truth of the whole clip is not known
    partly = read_case(judge, replace(case, truth_labels=unknown), teacher_id="t")
    assert not [row.metric for row in partly if "truth" in row.metric]
    assert "judge_ef" in EF_METRICS
    assert rows["judge_phase_ed_error_frames"].value <= 1  # the ellipse's pixels tie beside an extremum
    assert rows["judge_phase_es_error_frames"].value <= 1
    assert rows["judge_phase_gap"].value > 2
    assert rows["judge_phase_es_error_frames"].unit == "frames"


def test_a_judge_that_only_rates_masks_reads_nothing():
    class Rater:
        judge_id = "rater"

        def score(self, video: np.ndarray, lv_mask: np.ndarray) -> dict[str, float]:
            return {}

    case = beating_clip("0XA0", num_frames=8, size=16)
    assert read_case(Rater(), case, teacher_id="t") == []
    assert read_case(None, case, teacher_id="t") == []


@pytest.fixture(scope="module")
def embedded():
    return load_judge("embedded")


def test_every_prompt_of_a_run_is_trained_word_for_word():
    prompts = JudgePromptsConfig()
    said = {caption for ways in FINDINGS for caption in ways} | {text for kind in CHOICES for text in kind.captions}
    assert {prompts.wall, prompts.nothing, prompts.left_ventricle, prompts.valve_closed, prompts.valve_open} <= said
    assert EF.captions()[0] == fill_prompts(prompts.ef, EF_PLACE)[0]
    facts = {kind.fact for kind in (*CHOICES, EF, *NUMBERS)}
    patient = JudgedPatients(seed=3, num_frames=2, fps=7.0, size=16).patient(0)
    assert facts == set(patient.facts)  # every fact is told, and nothing is told that is not known
    longest = max(len(caption) for kind in (EF, *NUMBERS) for caption in kind.captions()[0])
    assert longest <= TextTower.max_bytes  # bytes after these are not read


def test_facts_of_a_patient_are_those_of_the_heart():
    """At ED the ventricle is full and at ES empty; between ES and the valve's opening lies isovolumic relaxation."""
    patient = JudgedPatients(seed=11, num_frames=96, fps=50.0, size=16).patient(4)
    emptied, valve = patient.facts["emptied"].numpy(), patient.facts["valve_open"].numpy()
    assert len(patient.ed_frames)
    assert len(patient.es_frames)
    assert emptied[list(patient.ed_frames)] == pytest.approx(0, abs=0.02)
    assert emptied[list(patient.es_frames)] == pytest.approx(1, abs=0.02)
    assert not valve[list(patient.es_frames)].any()
    openings = np.flatnonzero(np.diff(valve) > 0) + 1
    late = [opening - es for opening in openings for es in patient.es_frames if 0 <= opening - es < 15]
    assert late  # 65 to 95 ms at 50 frames a second, the frames' grid adds one at either end
    assert all(2 <= frames <= 6 for frames in late)
    ef = patient.facts["ef_percent"][0].item()
    assert 100 * (1 - patient.facts["esv_ml"][0] / patient.facts["edv_ml"][0]).item() == pytest.approx(ef, abs=1e-3)


def test_numbers_are_true_as_a_gaussian_says():
    kind = Number("age_years", ("AGE <#>",), (20, 30, 40), 5.0)
    captions, true = draw_numbers(kind, torch.tensor([30.0, 95.0]), 3, torch.Generator().manual_seed(0))
    place = {caption: column for column, caption in enumerate(captions)}
    assert set(place) == {"AGE 20", "AGE 30", "AGE 40"}
    near = math.exp(-0.5 * (10 / 5) ** 2)
    assert [true[0, place[f"AGE {age}"]].item() for age in (20, 30, 40)] == pytest.approx([near, 1.0, near])
    assert true[1, place["AGE 40"]].item() == 1.0  # beyond the last number the last one is true


def test_the_embedded_judge_reads_cases_it_was_not_trained_on(embedded):
    """What its report says of 200 patients, on few: bars far below the report's lower ends."""
    source = JudgedPatients(seed=8_123_459, num_frames=48, fps=32.0, size=56)
    patients = [source.patient(index) for index in range(16)]
    readings = [embedded.read_video(patient.video.numpy()) for patient in patients]
    truth = [patient.facts["ef_percent"][0].item() for patient in patients]
    assert np.corrcoef([reading.ef_percent for reading in readings], truth)[0, 1] > 0.3
    gaps = [
        reading.cycle[list(patient.ed_frames)].mean() - reading.cycle[list(patient.es_frames)].mean()
        for reading, patient in zip(readings, patients, strict=True)
        if patient.ed_frames and patient.es_frames
    ]
    assert len(gaps) >= 12
    assert np.median(gaps) > 1  # the cycle runs with the area, in standard deviations
    assert isinstance(embedded, VideoReader)
