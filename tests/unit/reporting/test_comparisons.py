"""Pairs of students and strata of cases in summary.json."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import yaml
from scipy import stats

from echodfkd.core.records import CaseScore, Conditions
from echodfkd.reporting.summary import write_summary
from echodfkd.storage import schemas
from echodfkd.storage.files import RunStorage
from tests.helpers.echonet import beating_clip

EF = (20.0, 30.0, 45.0, 60.0, 62.0, 65.0)
GAIN = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05)


@pytest.fixture
def storage(tmp_path):
    """Six cases, two students that differ by GAIN, and one scored on three cases only; EF is always 4 too low."""
    storage = RunStorage(str(tmp_path))
    storage.write("config.yaml", yaml.safe_dump({"name": "small", "seed": 1, "students": {"a": {}, "b": {}}}).encode())
    rows, cases = [], []
    for number, ef in enumerate(EF):
        clip = beating_clip(f"case{number}", num_frames=4, size=8)
        changes = {"clip_id": f"case{number}", "conditions": Conditions(ef_percent=ef, view="A4C")}
        cases.append(type(clip)(**{**vars(clip), **changes}))
        hard = random.Random(number).uniform(0.6, 0.9)
        for student, value in (("a", hard + GAIN[number]), ("b", hard), ("c", math.nan if number else 0.5)):
            if student != "c" or number < 3:
                rows.append(CaseScore(f"case{number}", "t", student, 5, "dice_all", "truth", "", 0.5, value, 4))
            rows.append(CaseScore(f"case{number}", "t", student, 5, "ef_simpson", "truth", "percent", 0.5, ef - 4, 4))
    schemas.write_records(storage, "scores/part-0.parquet", rows)
    storage.write_table("cases.parquet", map(schemas.case_row, cases), schemas.CASE_SCHEMA)
    return storage


def test_pairs_of_students(storage):
    found = {(pair["a"], pair["b"]): pair for pair in write_summary(storage)["comparisons"]}
    assert set(found) == {("a", "b"), ("a", "c"), ("b", "c")}
    pair = found["a", "b"]
    assert pair["difference"]["mean"] == pytest.approx(np.mean(GAIN), abs=1e-12)
    assert pair["difference"]["n"] == 6
    p = stats.wilcoxon([gain for gain in GAIN if gain], method="exact").pvalue
    assert pair["wilcoxon_p"] == pytest.approx(p, abs=0.03)  # one tie at 0 takes scipy from the exact law to the normal
    assert found["a", "c"]["difference"]["n"] == 1
    assert found["a", "c"]["left_out"] == 5
    assert pair["wilcoxon_p_holm"] == pytest.approx(min(1.0, 3 * pair["wilcoxon_p"]), abs=1e-12)


def test_strata_of_cases(storage):
    strata = write_summary(storage)["students"]["a"]["strata"]
    assert set(strata) == {"ef_percent"}  # one view, and nothing else known, tells nothing apart
    groups = strata["ef_percent"]
    assert {label: metrics["dice_all"]["n"] for label, metrics in groups.items()} == {
        "< 40": 2, "40 .. 50": 1, ">= 50": 3,
    }  # fmt: skip
    low = [random.Random(number).uniform(0.6, 0.9) + GAIN[number] for number in (0, 1)]
    assert groups["< 40"]["dice_all"]["mean"] == pytest.approx(np.mean(low), abs=1e-12)
    of_c = write_summary(storage)["students"]["c"]["strata"]["ef_percent"]
    assert of_c[">= 50"]["dice_all"] == {"mean": None, "low": None, "high": None, "n": 0}


def test_agreement_of_ejection_fractions(storage):
    scores = json.loads(json.dumps(write_summary(storage)["students"]["a"]["scores"], allow_nan=False))
    assert "ef_simpson" not in scores
    for name, value in (("pearson", 1), ("mae", 4), ("bias", -4), ("loa_low", -4), ("loa_high", -4)):
        assert scores[f"ef_simpson_{name}"]["mean"] == pytest.approx(value, abs=1e-9)
        assert scores[f"ef_simpson_{name}"]["n"] == 6
