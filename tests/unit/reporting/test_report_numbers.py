"""Every number on the page and in its CSVs, recomputed from the Parquet rows with numpy and scipy alone."""

from __future__ import annotations

import csv
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from echodfkd.core.records import CaseScore
from echodfkd.reporting.page.report import write_report
from echodfkd.reporting.page.tables import METRICS
from echodfkd.storage import schemas
from echodfkd.storage.files import RunStorage
from tests.helpers.variance import icc_by_anova
from tests.unit.reporting.test_reporting import BEGIN, STUDENTS, TEACHER, fake_run, write_training

MODELS = {"c11": ("c11", 40), "c31": ("c31", 40), "teacher": ("", -1)}
ORDER = ["c11", "c31"]
"""Of the students in the config, whose YAML is sorted."""
CLIPS = [f"fake-s1-i{case}-e0-w0" for case in range(10)]
KNOWN_EF = np.array([30.0 + 4 * case for case in range(10)])
BINS = ((2, 0.15, 0.1, 400), (13, 0.9, 0.85, 100))
"""Bin, mean probability, share of truth, pixels: of every case and model."""


class Tables(HTMLParser):
    """Table -> rows of cells, each (the value, the small notes under it)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: dict[str, list[list[tuple[str, list[str]]]]] = {}
        self._table = self._tag = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "table":
            self._table = (values.get("id") or "").removeprefix("table-")
            self.found[self._table] = []
        elif tag == "tr":
            self.found[self._table].append([])
        elif tag in ("td", "th"):
            self.found[self._table][-1].append(("", []))
        self._tag = tag

    def handle_endtag(self, tag):
        self._table = "" if tag == "table" else self._table
        self._tag = ""

    def handle_data(self, data):
        if self._table and self._tag in ("b", "code", "button"):
            self.found[self._table][-1][-1] = (data, [])
        elif self._table and self._tag == "span":
            self.found[self._table][-1][-1][1].append(data)

    def body(self, table: str) -> list[list[tuple[str, list[str]]]]:
        heads = 2 if table == "scores" else 1
        return self.found[table][heads:]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    storage = fake_run(folder)
    rows = [
        CaseScore(clip, TEACHER, student, step, f"reliability_{number:02d}", "truth", "", prob, share, pixels)
        for student, step in MODELS.values()
        for clip in CLIPS
        for number, prob, share, pixels in BINS
    ]
    schemas.write_records(storage, "scores/part-9.parquet", rows)
    write_report(storage)
    return folder


@pytest.fixture(scope="module")
def page(run) -> Tables:
    return Tables((run / "report.html").read_text())


@pytest.fixture(scope="module")
def values(run) -> dict[tuple[str, int, str], np.ndarray]:
    """(student, step, metric) -> one value per clip in the order of CLIPS, from the files themselves."""
    parts = pa.concat_tables([pq.read_table(path) for path in sorted((run / "scores").glob("*.parquet"))])
    found: dict[tuple[str, int, str], dict[str, float]] = {}
    for row in parts.to_pylist():
        found.setdefault((row["student"], row["step"], row["metric"]), {})[row["clip_id"]] = row["value"]
    table = {key: np.array([of_key[clip] for clip in CLIPS]) for key, of_key in found.items()}
    for student, step in {key[:2] for key in table}:
        table[student, step, "afd"] = (table[student, step, "afd_ed"] + table[student, step, "afd_es"]) / 2
    return table


def read_csv(run: Path, name: str) -> list[dict[str, str]]:
    with (run / "report" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_score(row: dict[str, str], statistic, *columns: np.ndarray) -> None:
    """Mean and n exactly; the interval within 15 % of its width of one from another seed (each end has a sampling
    error of 1.5 % of it at 2,000 resamples, more at the 400 of a curve and with ten coarse values)."""
    kept = np.isfinite(columns).all(axis=0)
    columns = tuple(column[kept] for column in columns)
    assert int(row["n"]) == kept.sum()
    assert float(row["mean"]) == pytest.approx(statistic(*columns), abs=1e-9)
    rng = np.random.default_rng(99)
    drawn = [rng.integers(0, kept.sum(), kept.sum()) for _ in range(3000)]
    with np.errstate(invalid="ignore"):
        low, high = np.nanquantile([statistic(*(c[d] for c in columns)) for d in drawn], [0.025, 0.975])
    assert float(row["low"]) == pytest.approx(low, abs=0.15 * (high - low))
    assert float(row["high"]) == pytest.approx(high, abs=0.15 * (high - low))


def test_the_scores(run, page, values):
    rows = {(row["model"], row["metric"]): row for row in read_csv(run, "scores")}
    plain = {key for key in rows if not key[1].startswith("ef_")}
    assert len(plain) == sum((*which, m) in values for which in MODELS.values() for m in {k[1] for k in plain})
    for model, metric in plain:
        check_score(rows[model, metric], np.mean, values[(*MODELS[model], metric)])
    shown = [m for m in METRICS if any((model, m.name) in rows for model in MODELS)]
    assert [row[0][0] for row in page.body("scores")] == list(MODELS)
    for line in page.body("scores"):
        model = line[0][0]
        assert len(line) == 1 + len(shown)
        for metric, (text, notes) in zip(shown, line[1:], strict=True):
            row, digits = rows.get((model, metric.name)), metric.digits
            if row is None:
                assert (text, notes) == ("–", [])
                continue
            low, high = float(row["low"]), float(row["high"])
            assert text == f"{float(row['mean']):.{digits}f}"
            assert notes == [f"{low:.{digits}f} … {high:.{digits}f}", f"n {row['n']}"]
    assert page.body("scores")[0][0][1] == ["5,701 weights", "step 40"]


def test_the_learning_curves(run, values):
    for metric in ("dice_all", "judge_score", "afd", "dice_teacher"):
        rows = read_csv(run, f"curve_{metric}")
        students = [(row["student"], int(row["step"])) for row in rows if row["student"] != "teacher"]
        assert students == [(name, step) for name in ORDER for step in (20, 40)]
        for row in rows:
            student = "" if row["student"] == "teacher" else row["student"]
            check_score(row, np.mean, values[student, int(row["step"]), metric])
    logged = pq.read_table(run / "logs/training-0.parquet").to_pylist()
    wanted = {(row["student"], row["step"]): row["loss"] for row in logged}
    assert {(r["student"], int(r["step"])): float(r["loss"]) for r in read_csv(run, "curve_loss")} == wanted


@pytest.mark.parametrize(("metric", "sign"), [("dice_all", 1), ("afd", -1), ("judge_score", 1)])
def test_scores_against_cost(run, values, metric, sign):
    # c11 by hand: a 3 x 3 convolution of 1 + 12 maps into 4 x 12 gates, and 12 weights of the head; c31 as published,
    # where 0.331 GMAC has three digits
    macs = {"c11": (13 * 48 * 9 + 12) * 112**2, "c31": 0.331e9}
    for cost in ("parameters", "macs"):
        rows = read_csv(run, f"pareto_{metric}_{cost}")
        own = {row["model"]: row for row in rows if row["source"] == "run"}
        assert list(own) == ORDER
        for name, row in own.items():
            check_score(row, np.mean, values[name, 40, metric])
            assert int(row["parameters"]) == STUDENTS[name]
            assert int(row["macs"]) == pytest.approx(macs[name], rel=2e-3)
            beaten = any(
                float(other[cost]) <= float(row[cost]) and sign * float(other["mean"]) > sign * float(row["mean"])
                for other in own.values()
            )
            assert row["on_front"] == str(not beaten)
        others = {row["model"]: row for row in rows if row["source"] == "published"}
        assert len(others) == (0 if metric != "dice_all" else 20 if cost == "parameters" else 16)
        if metric == "dice_all":
            assert float(others["3,1"]["mean"]) == 0.9
            assert ("SimLVSeg" in others) == (cost == "parameters")


def test_what_each_student_takes(page):
    lines = {line[0][0]: [text for text, _ in line[1:]] for line in page.body("students")}
    assert lines["c31"] == ["174,721", "330.7", "40", "–"]
    assert lines["c11"][::2] == ["5,701", "40"]


def test_judge_and_truth(run, page, values):
    rows = {(row["model"], row["statistic"]): row for row in read_csv(run, "judge_agreement")}
    dots = read_csv(run, "judge_truth")
    assert len(dots) == 30
    for model, which in MODELS.items():
        x, y = values[(*which, "dice_all")], values[(*which, "judge_score")]
        check_score(rows[model, "spearman"], lambda a, b: stats.spearmanr(a, b).statistic, x, y)
        check_score(rows[model, "pearson"], lambda a, b: np.corrcoef(a, b)[0, 1], x, y)
        mine = {
            dot["clip_id"]: (float(dot["dice_all"]), float(dot["judge_score"])) for dot in dots if dot["model"] == model
        }
        assert mine == dict(zip(CLIPS, zip(x, y, strict=True), strict=True))
    for line in page.body("judge_agreement"):
        assert [text for text, _ in line[1:]] == [
            f"{float(rows[line[0][0], kind]['mean']):.2f}" for kind in ("spearman", "pearson")
        ]


def test_ejection_fractions(run, page, values):
    def limit(side):
        return lambda x, y: np.mean(x - y) + side * 1.96 * np.std(x - y, ddof=1)

    statistics = {
        "bias": lambda x, y: np.mean(x - y), "lower limit": limit(-1), "upper limit": limit(1),
        "mean error": lambda x, y: np.abs(x - y).mean(), "pearson": lambda x, y: np.corrcoef(x, y)[0, 1],
        "icc": lambda x, y: icc_by_anova(np.stack([x, y], axis=1)),
    }  # fmt: skip
    rows = {(row["model"], row["statistic"]): row for row in read_csv(run, "ef_agreement")}
    for (model, kind), row in rows.items():
        check_score(row, statistics[kind], values[(*MODELS[model], "ef_area")], KNOWN_EF)
    for line in page.body("ef_agreement"):
        wanted = [
            f"{float(rows[line[0][0], kind]['mean']):.{2 if kind in ('pearson', 'icc') else 1}f}" for kind in statistics
        ]
        assert [text for text, _ in line[2:]] == wanted
    dots = read_csv(run, "bland_altman")
    assert [float(dot["predicted"]) for dot in dots] == list(values["c11", 40, "ef_area"])
    assert [float(dot["known"]) for dot in dots] == list(KNOWN_EF)


def test_the_strata(run, page, values):
    inside = {"< 40": KNOWN_EF < 40, "40 .. 50": (KNOWN_EF >= 40) & (KNOWN_EF < 50), ">= 50": KNOWN_EF >= 50}
    rows = {(r["student"], r["stratum"]): r for r in read_csv(run, "strata") if r["metric"] == "dice_all"}
    assert set(rows) == {(name, stratum) for name in STUDENTS for stratum in inside}
    for (name, stratum), row in rows.items():
        kept = values[name, 40, "dice_all"][inside[stratum]]
        assert int(row["n"]) == len(kept)
        assert float(row["mean"]) == pytest.approx(kept.mean(), abs=1e-12)
    for line in page.body("strata"):
        wanted = [rows[name, line[1][0]] for name in ORDER]
        assert [text for text, _ in line[2:]] == [f"{float(row['mean']):.3f}" for row in wanted]
        assert [notes[-1] for _, notes in line[2:]] == [f"n {row['n']}" for row in wanted]


def test_single_cases(page, values):
    lines = page.body("extremes")
    assert len(lines) == 9
    for line in lines:
        dice = values[(*MODELS[line[0][0]], "dice_all")]
        place = {"worst": 0, "median": 4, "best": 9}[line[1][0].split(",")[0]]
        clip = CLIPS[int(np.argsort(dice)[place])]
        assert line[1][0].endswith(f"rank {place + 1} of 10")
        assert line[2][0] == clip
        found = [
            values[(*MODELS[line[0][0]], m)][CLIPS.index(clip)] for m in ("dice_all", "afd_ed", "afd_es", "judge_score")
        ]
        wanted = [f"{v:.{d}f}" if math.isfinite(v) else "–" for v, d in zip(found, (3, 2, 2, 3), strict=True)]
        assert [text for text, _ in line[3:]] == wanted


def test_reliability_is_weighted_by_pixels(run):
    rows = read_csv(run, "reliability")
    assert len(rows) == len(MODELS) * len(BINS)
    for row, (number, prob, share, pixels) in zip(rows[: len(BINS)], BINS, strict=True):
        assert (int(row["bin"]), int(row["pixels"])) == (number, 10 * pixels)
        assert float(row["probability"]) == pytest.approx(prob, abs=1e-12)
        assert float(row["share"]) == pytest.approx(share, abs=1e-12)


def test_stages_and_ledger(run, page, tmp_path):
    spans = write_training(RunStorage(str(tmp_path)))
    for line in page.body("stages"):
        mine = [span for span in spans if span.stage == line[0][0]]
        busy = {
            (span.actor, ms)
            for span in mine
            for ms in range(round(1e3 * (span.start - BEGIN)), round(1e3 * (span.end - BEGIN)))
        }
        actors, seconds = len({span.actor for span in mine}), len(busy) / 1e3
        frames = sum(span.frames for span in mine)
        there = [
            [t for span in mine if span.actor == one for t in (span.start, span.end)]
            for one in {actor for actor, _ in busy}
        ]
        lived = sum(max(times) - min(times) for times in there)
        wanted = [f"{actors:,}", f"{sum(span.clips for span in mine):,}", f"{frames:,}", f"{seconds:,.1f}"]
        wanted += [f"{100 * seconds / lived:.0f} %", f"{frames / seconds:,.0f}"]
        assert [text for text, _ in line[1:]] == wanted
    assert len(read_csv(run, "timeline")) == len({vars(span).values().__repr__() for span in spans})
    assert [text for text, _ in page.body("ledger")[0]] == ["160", "160", "0", "0", "0", "2"]
    assert len(page.body("quarantine")) == 3
