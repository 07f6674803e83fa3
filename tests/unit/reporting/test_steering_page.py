"""The page's section on steering: shares out of the ledger, disagreement out of the laws, scores by stratum."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from echodfkd.config.file import config_to_yaml, load_config
from echodfkd.core.records import CaseScore, Conditions, LedgerRow, VideoClip
from echodfkd.reporting.page.report import build_report
from echodfkd.reporting.rows import read_rows
from echodfkd.storage.checkpoints import publish
from echodfkd.storage.files import RunStorage
from echodfkd.storage.intervals import Intervals
from echodfkd.storage.schemas import CASE_SCHEMA, case_row, write_records
from echodfkd.storage.steering import Law, SteeringState, Window
from tests.helpers.reports import render_report

LOW, HIGH = "ef_percent < 40", "ef_percent >= 40"
STEERING = ["source.steering.strata={ef_percent: [40]}"]
LAWS = (
    Law(0, (), (1.0, 1.0), (0.0, 0.0), (0, 0)),
    Law(2, (0.75, 0.25), (0.25, 2.0), (0.4, 0.1), (1, 7), ((1, 0, 1),)),
    Law(4, (0.5, 0.5), (0.5, 2.0), (0.9, 0.9), (8, 0)),
)
STRATA = [[LOW, HIGH, HIGH, HIGH], [HIGH] * 4, [LOW, LOW, LOW, HIGH], [LOW, LOW, HIGH, HIGH]]
"""Of the four clips of each update."""


def steered_run(folder: Path, options: list[str]) -> RunStorage:
    config = load_config(
        None,
        ["students.a.blocks=1", "train.steps=4", "train.global_batch=4", "name=run", f"storage={folder}", *options],
    )
    storage = RunStorage(config.root)
    storage.write("config.yaml", config_to_yaml(config).encode())
    rows = [
        LedgerRow(slot, slot, f"c{slot}", 0, 0, slot // 4 + 1, 0, "x", stratum=STRATA[slot // 4][slot % 4])
        for slot in range(15)
    ]
    rows.append(LedgerRow(15, 15, "c1", 0, 0, 4, 0, "x", stratum=HIGH, comes_back=True))
    part = "ledger/part-step00000004-rank0-x.parquet"
    publish(
        storage,
        step=4,
        students={},
        consumed=Intervals(((0, 16),)),
        ledger={part: write_records(storage, part, rows)},
        quarantine={},
        meta={},
        further=SteeringState(LAWS, Window((0, 0, 0), (0, 0, 0))).files(),
    )
    cases = [
        VideoClip(
            f"k{n}", n, 0, 0, 0, np.zeros((2, 4, 4), np.uint8), 32.0, "p", "d", conditions=Conditions(ef_percent=ef)
        )
        for n, ef in enumerate([30.0, 40.0, 60.0])
    ]
    storage.write_table("cases.parquet", map(case_row, cases), CASE_SCHEMA)
    dice = {2: [0.2, 0.6, 0.8], 4: [0.7, 0.8, 0.9]}
    scores = [
        CaseScore(f"k{n}", "t", "a", step, metric, "truth" if metric == "dice_all" else "j", "", 0.5, value - below, 2)
        for metric, below in (("dice_all", 0.0), ("judge_score", 0.5))
        for step, values in dice.items()
        for n, value in enumerate(values)
    ]
    write_records(storage, "scores/part-0.parquet", scores)
    return storage


@pytest.mark.parametrize(
    ("follow", "because"),
    [
        ("disagreement", "students and teacher differ by 0.400"),
        ("temporal", "their changes from frame to frame differ by 0.400"),
        ("judge", "the judge scores the students 0.400 below the teacher"),
    ],
)
def test_the_page_shows_share_signal_and_scores_by_stratum(tmp_path: Path, follow: str, because: str) -> None:
    storage = steered_run(tmp_path, [*STEERING, f"source.steering.follow={follow}"])
    report = build_report(read_rows(storage))
    low, high = report.tables["steering"].rows
    assert (low["stratum"], high["stratum"]) == (LOW, HIGH)
    assert (low["share_first"], low["share_last"], high["share_last"]) == (1 / 8, 5 / 8, 3 / 8)
    assert (low[f"{follow}_last"], high[f"{follow}_last"], low["weight"]) == (0.4, 0.1, 0.25)
    assert (low["dice_all_first"], low["dice_all_last"]) == (0.2, 0.7)
    assert (high["dice_all_first"], high["dice_all_last"]) == pytest.approx((0.7, 0.85))
    assert (low["judge_score_first"], low["judge_score_last"]) == pytest.approx((-0.3, 0.2))
    judged = {(row["step"], row["stratum"]): row["mean"] for row in report.charts["steering"][3].rows}
    assert judged == pytest.approx({(2, LOW): -0.3, (2, HIGH): 0.2, (4, LOW): 0.2, (4, HIGH): 0.35})
    shares = {(row["step"], row["stratum"]): row["share"] for row in report.charts["steering"][0].rows}
    assert shares == {(0, LOW): 1 / 8, (0, HIGH): 7 / 8, (2, LOW): 5 / 8, (2, HIGH): 3 / 8}
    page = render_report(storage)
    assert '<section id="steering">' in page
    assert "2 laws drew the patients of this run. Of 16 clips 1 came back." in page
    assert (
        f"The last one drew patients of ef_percent &lt; 40 4.0 times as often as chance does, where {because}"
        " (mean of the strata 0.250)." in page
    )
    assert "steering_dice_all" in page


def test_a_page_without_steering_has_no_section_and_one_of_an_unknown_config_no_scores(tmp_path: Path) -> None:
    plain = steered_run(tmp_path / "plain", [])
    manifest = "checkpoints/step_00000004/manifest.json"
    values = json.loads(plain.read(manifest))
    del values["files"]["steering.json"]
    plain.write(manifest, json.dumps(values).encode())
    assert 'id="steering"' not in render_report(plain)
    strange = steered_run(tmp_path / "strange", [*STEERING])
    strange.write("config.yaml", strange.read("config.yaml").replace(b"ef_percent:", b"of_another_version:", 1))
    table = build_report(read_rows(strange)).tables["steering"]
    assert [row["stratum"] for row in table.rows] == ["stratum 0", "stratum 1"]
    assert "dice_all_last" not in table.rows[0]
    assert np.isnan(table.rows[0]["share_last"])
