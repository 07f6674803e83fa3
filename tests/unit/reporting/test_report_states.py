"""Pages of runs that lack something, of several runs, and of a run that is still going on; files beside the page."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import wilcoxon

from echodfkd.config.file import config_to_yaml
from echodfkd.config.sections.student import StudentConfig
from echodfkd.core.errors import InputError
from echodfkd.core.records import JUDGE_STEP, CaseScore
from echodfkd.reporting.figures.overlays import STRIP_PX, TICK, draw_overlay
from echodfkd.reporting.live.follow import follow_report
from echodfkd.reporting.live.redraw import redraw_overlays
from echodfkd.reporting.page.agreement import judge_reading_table
from echodfkd.reporting.page.groups import cases_to_draw, chosen_places
from echodfkd.reporting.page.pareto import pareto_front
from echodfkd.reporting.page.report import write_report
from echodfkd.reporting.page.table import csv_file
from echodfkd.reporting.rows import DRAWN, read_rows
from echodfkd.reporting.study.across import compare_runs
from echodfkd.reporting.summary import build_summary, summarise
from echodfkd.sources.build import build_source
from echodfkd.storage import schemas
from echodfkd.storage.files import RunStorage
from tests.helpers.training import run_training, small_config
from tests.unit.reporting.test_reporting import (
    checked_page,
    fake_case,
    fake_config,
    fake_run,
    fake_run_json,
    fake_scores,
)

ROOT = Path(__file__).parents[3]


def bare_run(folder: Path, scores: list[CaseScore], **config: object) -> RunStorage:
    storage = RunStorage(str(folder))
    storage.write("config.yaml", yaml.safe_dump({**fake_config(), **config}).encode())
    schemas.write_records(storage, "scores/part-0.parquet", scores)
    storage.write("logs/students.json", json.dumps({"students": fake_run_json()["students"]}).encode())
    return storage


def test_a_run_with_one_student(tmp_path):
    scores = [row for row in fake_scores() if row.student in ("c31", "")]
    page = checked_page(bare_run(tmp_path, scores, students={"c31": {"blocks": 3, "layers": 1}}))
    assert "1 students" not in page.text
    assert "1 student, 95 % intervals over n = 10 cases" in page.text
    assert "c11" not in page.text


def test_a_run_without_truth(tmp_path):
    kept = ("judge_score", "dice_teacher", "temporal_dice")
    page = checked_page(bare_run(tmp_path, [row for row in fake_scores() if row.metric in kept]))
    assert "The cases carry no truth masks, so there is no Dice with the truth." in page.text
    assert "No Dice with the truth has been scored." in page.text
    assert "No case has both a judge score and a Dice with the truth." in page.text
    assert "No case has both a known ejection fraction and a measured one." in page.text
    assert "worst, rank 1 of 10" in page.text  # by the judge's score


def test_what_the_judge_reads_is_shown_and_is_nobody_s_score(tmp_path):
    """Known EF of case i is that of `fake_case`; the judge is always 3 points above it, and there is no teacher."""
    scores = [row for row in fake_scores() if row.student]
    cases = [fake_case(number) for number in range(10)]
    for case in cases:
        assert case.conditions.ef_percent is not None
        for metric, value in (("judge_ef", case.conditions.ef_percent + 3), ("judge_phase_gap", 1.5)):
            scores.append(CaseScore(case.clip_id, "", "", JUDGE_STEP, metric, "judge-1", "", None, value, 48))
    storage = bare_run(tmp_path, scores)
    storage.write_table("cases.parquet", map(schemas.case_row, cases), schemas.CASE_SCHEMA)
    assert read_rows(storage).scored_steps("") == []
    page = checked_page(storage)
    assert "What the judge reads without a mask" in page.text
    summary = summarise(read_rows(storage))
    assert summary["teacher"]["scores"] == {}
    shown = {cells[0].text: cells[1].text for cells in judge_reading_table(summary).cells}
    assert shown["ejection fraction, mean error in points"].startswith("3.0")
    assert shown["its cycle at ED less at ES, standard deviations"].startswith("1.50")
    assert all(words in page.text for words in shown)


def test_a_run_that_failed_before_it_scored(tmp_path):
    storage = RunStorage(str(tmp_path))
    storage.write("config.yaml", yaml.safe_dump(fake_config()).encode())
    storage.write("run.json", json.dumps({**fake_run_json(), "error": "no GPU is there"}).encode())
    page = checked_page(storage)
    assert "This run failed: no GPU is there" in page.text
    assert "No scores yet: no published checkpoint has been evaluated." in page.text
    assert "No case has been scored." in page.text
    assert "174,721" in page.text  # what is known stands there


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_nothing_beats(seed):
    rng = random.Random(seed)
    points = [(rng.randint(1, 6), rng.randint(1, 6)) for _ in range(9)]
    for better in (1, -1):
        front = pareto_front([c for c, _ in points], [s for _, s in points], better=better)
        for place, (cost, score) in enumerate(points):
            beaten = any(c <= cost and better * s >= better * score and (c, s) != (cost, score) for c, s in points)
            assert beaten == ((cost, score) not in {points[i] for i in front}), place
        assert [points[i][0] for i in front] == sorted({points[i][0] for i in front})


def test_cells_of_a_csv_are_no_formulas():
    rows = [{"a": text, "b": value} for text, value in (("=1+1", -1.5), ("@x", float("nan")), ("-x,y", None))]
    read = list(csv.reader(io.StringIO(csv_file(rows).decode())))
    assert read == [["a", "b"], ["'=1+1", "-1.5"], ["'@x", ""], ["'-x,y", ""]]


@pytest.mark.usefixtures("real_pdf")
def test_files_beside_the_page_are_whole_and_the_same_again(tmp_path):
    storage = fake_run(tmp_path, with_overlay=True)
    write_report(storage)
    first = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    page = (tmp_path / "report.html").read_text()
    linked = {part.split('"')[0] for part in page.split('href="report/')[1:]}
    assert linked == set(first)
    assert {name.rsplit(".", 1)[-1] for name in first} == {"csv", "svg", "pdf", "png"}
    for name, data in first.items():
        start = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}.get(name.rsplit(".", 1)[-1], b"")
        assert data.startswith(start)
        assert len(data) > (1000 if name.endswith("pdf") else 20)
    write_report(storage)
    assert {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()} == first


def test_worst_median_and_best_are_drawn(tmp_path):
    assert [chosen_places(10, wanted) for wanted in (0, 1, 3, 99)] == [[], [0], [0, 4, 9], list(range(10))]
    storage = fake_run(tmp_path, with_overlay=True)
    dice = {r.clip_id: r.value for r in fake_scores() if (r.student, r.step, r.metric) == ("c31", 40, "dice_all")}
    ranked = [int(clip.split("-")[2][1:]) for clip in sorted(dice, key=dice.get)]
    assert cases_to_draw(read_rows(storage), 3)["c31"] == [ranked[0], ranked[4], ranked[9]]
    assert checked_page(storage).tags["video"] == 2
    storage.write(DRAWN, json.dumps({"step": 40, "names": ["overlays/c31-0001.mp4"]}).encode())
    assert checked_page(storage).tags["video"] == 1  # the other one is of an earlier end of the run


def test_overlays_have_ticks_at_ed_and_es():
    case = fake_case(0)
    truth = case.truth_labels == 1
    drawing = draw_overlay(case.video, {"truth": truth}, ed_frames=(0, 16), es_frames=(8,))
    strip = drawing[5, -STRIP_PX:]
    yellow = (strip == [int(TICK[i : i + 2], 16) for i in (1, 3, 5)]).all(-1)
    above, below = (np.flatnonzero(yellow[rows].all(0)) for rows in (slice(0, 9), slice(-9, None)))
    assert set(above) == {0, round(16 * 127 / 23) - 1, round(16 * 127 / 23)}
    assert set(below) == {round(8 * 127 / 23) - 1, round(8 * 127 / 23)}


def test_several_runs_on_one_page(tmp_path):
    a, b = fake_run(tmp_path / "a"), fake_run(tmp_path / "b")
    b.write("config.yaml", yaml.safe_dump({**fake_config(), "name": "other", "seed": 8}).encode())
    better = [
        CaseScore(r.clip_id, r.teacher_id, r.student, r.step, r.metric, r.reference, "", 0.5, r.value + 0.01 * k, 3)
        for k, r in enumerate(
            row for row in fake_scores() if (row.student, row.step, row.metric) == ("c31", 40, "dice_all")
        )
    ]
    schemas.write_records(b, "scores/part-3.parquet", better)
    page = compare_runs([a.root, b.root], str(tmp_path / "out"))
    text = Path(page).read_text()
    assert page == f"{tmp_path}/out/report.html"
    assert text.index("What differs") < text.index("Paired tests") < text.index("Learning")
    with (tmp_path / "out/report/configs.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"option": "seed", "fake-run": "7", "other": "8"}]
    with (tmp_path / "out/report/tests.csv").open() as file:
        tests = [
            row
            for row in csv.DictReader(file)
            if (row["model_a"], row["model_b"], row["metric"]) == ("c31", "c31", "dice_all")
        ]
    assert float(tests[0]["mean"]) == pytest.approx(-0.045, abs=1e-12)
    assert float(tests[0]["wilcoxon_p"]) == wilcoxon(-0.01 * np.arange(10)).pvalue
    assert (tests[0]["n"], tests[0]["left_out"]) == ("10", "0")
    with pytest.raises(InputError, match="is a run folder, whose own page would be lost"):
        compare_runs([a.root, b.root], a.root)


def test_a_page_follows_its_run(tmp_path):
    storage = fake_run(tmp_path)
    (tmp_path / "run.json").rename(tmp_path / "kept")
    (tmp_path / "scores/part-1.parquet").rename(tmp_path / "later")
    pages, ticks = [], itertools.count()

    def sleep(seconds: float) -> None:
        pages.append((tmp_path / "report.html").read_text())
        turn = next(ticks)
        if turn == 1:
            (tmp_path / "later").rename(tmp_path / "scores/part-1.parquet")
        if turn == 2:
            (tmp_path / "kept").rename(tmp_path / "run.json")
        assert turn < 3

    said: list[str] = []
    follow_report(storage, every_s=5, say=said.append, sleep=sleep)
    assert len(said) == 2  # at once, and when the scores came; the last page is the finished one
    scored = 'scope="row"><b>teacher</b>'  # its scores are in the second part; its row of the stages has a colour first
    assert [scored in page for page in pages] == [False, False, True]
    assert all('data-refresh="5"' in page for page in pages)
    assert "data-refresh" not in (tmp_path / "report.html").read_text()
    assert (tmp_path / "report/scores.csv").exists()
    with pytest.raises(InputError, match=r"--every: 0\.5 seconds"):
        follow_report(storage, every_s=0.5, say=said.append)


def test_the_job_says_in_one_sentence_what_is_wrong(tmp_path):
    for arguments, code, sentence in (
        ([str(tmp_path)], 2, "is not a run folder: it holds no config.yaml"),
        (["a", "b", "--follow"], 2, "--follow, --overlays, --tensorboard, --mlflow and --wandb take one run"),
    ):
        command = [sys.executable, "jobs/report.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr


def test_overlays_are_drawn_again_without_a_cluster(tmp_path):
    config = small_config(students={"a": StudentConfig(blocks=1, layers=1, filters=2)}, size=32, steps=2)
    config = replace(config, evaluation=replace(config.evaluation, cases=3, frames=12))
    assert run_training(config, tmp_path)["steps"] == 2
    storage = RunStorage(str(tmp_path))
    storage.write("config.yaml", config_to_yaml(config).encode())
    source = build_source(config.evaluation.source, config.window, seed=config.seed, case_frames=12)
    cases = [source.case(number) for number in range(3)]
    storage.write_table("cases.parquet", map(schemas.case_row, cases), schemas.CASE_SCHEMA)
    dice = (0.7, 0.2, 0.9)
    rows = [
        CaseScore(case.clip_id, "t", "a", 2, "dice_all", "truth", "", 0.5, value, 12)
        for case, value in zip(cases, dice, strict=True)
    ]
    schemas.write_records(storage, "scores/part-0.parquet", rows)
    said: list[str] = []
    redraw_overlays(storage, 2, said.append)
    names = ["overlays/a-0001.mp4", "overlays/a-0002.mp4"]  # the worst and the best
    assert json.loads(storage.read(DRAWN)) == {"step": 2, "names": names}
    assert [line.removeprefix(f"{tmp_path}/") for line in said] == names
    page = checked_page(storage)
    assert page.tags["video"] == 2
    assert page.text.index("worst, rank 1 of 3") < page.text.index("best, rank 3 of 3")
    (tmp_path / "scores/part-0.parquet").unlink()
    with pytest.raises(InputError, match="no case of a student has been scored, so there is none to draw"):
        redraw_overlays(storage, 2, said.append)


def test_a_run_that_kept_no_macs_says_so_once(tmp_path):
    storage = fake_run(tmp_path)
    values = fake_run_json()
    for facts in values["students"].values():
        del facts["macs_per_frame"]
    storage.write("run.json", json.dumps(values).encode())
    write_report(storage)
    page = storage.read("report.html").decode()
    assert page.count("This run did not keep the MACs of all its students.") == 1
    assert "The students&#39; MACs per frame of 112 x 112 are not known." in page
    assert build_summary(storage)["students"]["c31"]["macs_per_frame"] is None


def test_a_run_that_has_not_ended_shows_the_sizes_that_it_kept_at_its_start(tmp_path):
    storage = fake_run(tmp_path)
    known = fake_run_json()["students"]
    storage.write("logs/students.json", json.dumps({"students": known}).encode())
    (tmp_path / "run.json").unlink()
    students = build_summary(storage)["students"]
    assert {name: of["parameters"] for name, of in students.items()} == {n: of["parameters"] for n, of in known.items()}
    assert students["c11"]["macs_per_frame"] == 70_597_632
