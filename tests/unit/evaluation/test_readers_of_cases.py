"""Readers' tracings and the cases that they belong to: names that do not meet, and one file at fault."""

import numpy as np
import pytest

from echodfkd.config.file import load_config
from echodfkd.core.errors import InputError
from echodfkd.evaluation.predictions import Prediction
from echodfkd.evaluation.scored_models import ScoredModel
from echodfkd.evaluation.scorer import CaseScorer
from echodfkd.sources.video.tracing import mask_to_tracing
from tests.helpers.echonet import write_small_folder


@pytest.fixture
def scorer(tmp_path):
    clips = write_small_folder(str(tmp_path / "set"), videos=2, size=112)
    (tmp_path / "readers").mkdir()
    for clip in clips:
        rows = mask_to_tracing(clip.truth_labels[4] == 1)
        np.save(tmp_path / "readers" / f"{clip.clip_id}.diastol.label0.npy", rows)

    def make():
        config = load_config(None, [
            "students.a.blocks=1", "window.size=112", "window.fps=0", "evaluation.judge=none", "evaluation.frames=40",
            "evaluation.source.kind=recorded", f"evaluation.source.path={tmp_path}/set", "evaluate.teacher=false",
            f"evaluate.annotations={tmp_path}/readers",
        ])  # fmt: skip
        return CaseScorer(config, "cpu")

    return make


def truth_as_mask(case):
    prob = np.where(case.truth_labels == 1, np.float32(0.9), np.float32(0.1))
    return Prediction(np.where(case.truth_labels == 255, np.float32(0.1), prob))


def test_a_readers_file_at_fault_costs_its_case_and_not_the_evaluation(scorer, tmp_path):
    file = tmp_path / "readers" / "0XA1.diastol.label0.npy"
    np.save(file, np.load(file) / 112)
    found = [scorer().score(number, [ScoredModel("m", 0, "w", truth_as_mask)], teacher=False) for number in (0, 1)]
    metrics = {row.metric: row.value for row in found[0].scores}
    assert metrics["readers_dice_ed"] == pytest.approx(1.0, abs=0.02)  # the same tracing, rounded to whole pixels
    assert found[1].case is None
    (row,) = found[1].quarantined
    assert row.clip_id == "recorded-0XA1-s1000003-case-w0"
    assert row.reason.startswith("0XA1.diastol.label0.npy: a tracing fills")


def test_tracings_of_no_case_are_refused(scorer, tmp_path):
    for file in list((tmp_path / "readers").iterdir()):
        file.rename(file.with_name(file.name.replace("0XA", "0XB")))
    words = r"^evaluate\.annotations: none of its 2 videos, e\.g\. 0XB0, is among the 2 cases of evaluation\.source$"
    with pytest.raises(InputError, match=words):
        scorer()
