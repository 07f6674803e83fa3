"""The study's page is of its rows, and its answers are those of another route from the same cells."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from echodfkd.config.identity import config_hash
from echodfkd.core.errors import InputError
from echodfkd.core.records import StageSpan
from echodfkd.models.teachers.torchvision_guard import import_torchvision
from echodfkd.reporting.rows import RunRows
from echodfkd.reporting.study.cell import read_cell, write_cell
from echodfkd.storage import schemas
from echodfkd.storage.files import RunStorage
from tests.benchmarks import study_questions
from tests.benchmarks.study_page import (
    PAGE,
    PARTS,
    ROOT,
    ROWS,
    blocks,
    filled,
    over_seeds,
    part_runs,
    read_part,
    table,
)
from tests.benchmarks.study_page import text_of as text

CASES = 6
STEPS = (5, 10)


def score(part: str, condition: str, student: str, seed: int, step: int, metric: str) -> np.ndarray:
    """Values of the cases, of no meaning but of which each is another one."""
    words = f"{part}/{condition}/{student}/{metric}".encode()
    low, high = (40, 70) if metric == "ef_area" else (0.4, 0.9)
    return np.random.default_rng([seed, step, *words]).uniform(low, high, CASES)


def write_part(part: str, folder: Path, *, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Cells of a part without a run behind them."""
    for condition, run in part_runs(part):
        if run.seed in seeds:
            rows = [
                {**dict.fromkeys(schemas.SCORE_SCHEMA.names), "clip_id": f"s{run.seed}-c{case}", "teacher_id": "t"}
                | {"student": name, "step": step, "metric": metric, "reference": "truth", "unit": "", "n": 1}
                | {"value": float(value)}
                for name in run.students
                for step in STEPS
                for metric in ("dice_all", "judge_score", "ef_area")
                for case, value in enumerate(score(part, condition, name, run.seed, step, metric))
            ]
            cases = {"clip_id": [f"s{run.seed}-c{c}" for c in range(CASES)], "domain": ["wild"] * CASES}
            cases["ef_percent"] = [float(50 + case) for case in range(CASES)]  # type: ignore[misc]
            spans = [{**vars(StageSpan("students", "a", 0.0, 1800.0, 1, 4)), "bytes": None}]
            stored = {"name": run.name, "seed": run.seed, "students": {name: {} for name in run.students}}
            stored |= {"window": {"size": 56, "frames": 16}, "train": {"steps": 10, "global_batch": 4}}
            sizes = {name: {"parameters": 36_337, "macs_per_frame": 26_800_000} for name in run.students}
            empty = pa.table({"student": pa.array([], pa.string())})
            of_run = RunRows(
                stored, {"machine": "two cores", "students": sizes}, {}, (),
                pa.Table.from_pylist(rows, schema=schemas.SCORE_SCHEMA), empty, empty,
                pa.Table.from_pylist(spans, schema=schemas.SPAN_SCHEMA), empty, pa.table(cases),
            )  # fmt: skip
            write_cell(RunStorage(str(folder)), of_run, config_hash(run))


def gaps(part: str, student: str, one: str, other: str) -> list[float]:
    """Mean difference in Dice by seed."""
    return [
        float(
            np.mean(score(part, one, student, seed, 10, "dice_all") - score(part, other, student, seed, 10, "dice_all"))
        )
        for seed in range(3)
    ]


def interval(values: list[float], *, digits: int = 3, sign: str = "+") -> str:
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return f"{np.mean(values):{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def test_the_page_is_of_the_rows() -> None:
    """Every number that the page states, from the rows that are committed."""
    page = (ROOT / PAGE).read_text()
    assert filled(page, blocks(ROOT / ROWS)[0]) == page, "run: python -m tests.benchmarks.study --page"


def test_without_rows_every_part_names_its_command(tmp_path: Path) -> None:
    texts, figures = blocks(tmp_path)
    assert set(figures) == {"question_f.svg"}  # whose rows are those of another benchmark
    for part in PARTS:
        assert texts[f"table-{part}"].endswith(f"python -m tests.benchmarks.study --minutes 60 --only {part}`")
        assert f"`{part}`: not run yet" in texts[f"table-{part}"]
    assert "not run yet" in texts["decision"]


def test_rows_of_another_config_are_no_rows_of_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.config_hash", lambda run: "older")
    write_part("comparators", tmp_path)
    with pytest.raises(
        InputError, match=r"study_comparators-seed0.* is of a run with other options .config hash older"
    ):
        blocks(tmp_path)


def test_answers_are_those_of_another_route(tmp_path: Path) -> None:
    for part in ("sizes", "specialists", "teachers", "repetition"):
        write_part(part, tmp_path)
    texts, figures = blocks(tmp_path)
    assert set(figures) == {"pareto.svg", *(f"question_{letter}.svg" for letter in "abcdef")}
    means = {
        f"{net}_{size}": np.mean([score("sizes", "drawn", f"{net}_{size}", s, 10, "dice_all") for s in range(3)])
        for net in ("paper", "ours")
        for size in study_questions.SIZES
    }
    best = max(means, key=means.__getitem__)  # all have the same weights here
    assert texts["pareto"].startswith(f"On the front: {best} (36,337 weights, Dice {means[best]:.3f}).")
    assert all(b"<svg" in figure for figure in figures.values())
    for net in ("paper", "ours"):
        for size in study_questions.SIZES:
            found = interval(gaps("sizes", f"{net}_{size}", "drawn", "labels"))
            assert f"{net} {size} {found}" in texts["question-a"]
    assert f"ours_3x1 {interval(gaps('specialists', 'ours_3x1', 'specialist', 'generalist'))}" in texts["question-b"]
    assert f"ours_3x1 {interval(gaps('teachers', 'ours_3x1', 'all_three', 'best_single'))}" in texts["question-c"]
    assert f"clips_1000 {interval(gaps('repetition', 'ours_2x1', 'clips_1000', 'endless'))}" in texts["question-e"]
    part = read_part("sizes", tmp_path)
    ranks = []
    for seed in range(3):
        means = [
            [score("sizes", condition, student, seed, 10, metric).mean() for metric in ("judge_score", "dice_all")]
            for condition in part.cells
            for student in part.cells[condition][seed].students
        ]
        ranks.append(float(stats.spearmanr(*np.array(means).T).statistic))
    assert f"over {len(means)} networks of a seed: {interval(ranks, digits=2)}" in texts["question-d"]


def test_a_table_has_the_runs_values_and_says_how_they_were_made(tmp_path: Path) -> None:
    write_part("specialists", tmp_path, seeds=(0, 1))
    part = read_part("specialists", tmp_path)
    lines = table(part).splitlines()
    assert lines[2].startswith("| generalist | ours_3x1 | 36,337 | 27 | – | ")
    areas = [score("specialists", "generalist", "ours_3x1", seed, 10, "ef_area") for seed in (0, 1)]
    errors = [float(np.abs(area - np.arange(50, 56)).mean()) for area in areas]
    assert f"| {text(over_seeds(errors, 'ef_error'), 1)} |" in lines[2]
    rs = [float(np.corrcoef(area, np.arange(50, 56))[0, 1]) for area in areas]
    assert f"| {interval(rs, digits=2, sign='')} |" in lines[2]
    assert lines[2].endswith("| 2 |")
    assert "2.0 hours of work on two cores" in "\n".join(lines)
    rises = [
        float(
            np.mean(np.subtract(*(score("specialists", kind, "ours_3x1", seed, step, "dice_all") for step in (10, 5))))
        )
        for kind in ("generalist", "specialist")
        for seed in (0, 1)
    ]
    assert f"From step 5 to 10 Dice rose by {np.mean(rises):+.4f} (at most {max(rises):+.4f})." in "\n".join(lines)
    assert lines[-1].startswith("`specialists`: 4 of 6 cells.")
    write_part("comparators", tmp_path, seeds=(0,))
    alone = table(read_part("comparators", tmp_path)).splitlines()[2]
    assert (
        f"| {score('comparators', '', 'paper_3x1', 0, 10, 'dice_all').mean():.3f} |" in alone
    )  # one seed, no interval


@pytest.mark.parametrize("better", [3, 2])
def test_the_default_student_follows_the_rule(better: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(part: str, condition: str, student: str, seed: int, step: int, metric: str) -> np.ndarray:
        ours = student.startswith("ours") and student[5:] in study_questions.SIZES[:better]
        return np.full(CASES, (0.8 if ours else 0.7 if student.startswith("paper") else 0.6) + 0.001 * seed)

    monkeypatch.setattr(f"{__name__}.score", scores)
    write_part("sizes", tmp_path)
    said = study_questions.decision(read_part("sizes", tmp_path))
    assert ("become the default" in said) == (better == 3)
    assert f"better at {better} of 3 sizes, with intervals apart at {better}" in said


def test_repetition_costs_from_where_it_stays_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(part: str, condition: str, student: str, seed: int, step: int, metric: str) -> np.ndarray:
        lower = condition == "clips_1000" and step == 10
        return np.full(CASES, 0.8 + 0.001 * seed - (0.1 + 0.002 * seed if lower else 0.0))

    monkeypatch.setattr(f"{__name__}.score", scores)
    write_part("repetition", tmp_path)
    said = blocks(tmp_path)[0]["question-e"]
    assert "repetition costs from 40 clips on; clips_10000 +0.000 [+0.000, +0.000], no cost is seen" in said


def test_rows_of_the_benchmark_behind_the_last_question_are_those_that_it_names() -> None:
    counts = {"short": 8, "saves": 17}
    for key, words in study_questions.GAPS.items():
        rows = list(csv.DictReader((ROOT / f"docs/benchmarks/domain_gap_{key}.csv").open()))
        assert len(rows) == counts[key]
        found = stats.spearmanr([float(r["wild"]) for r in rows], [float(r["real"]) for r in rows]).statistic
        assert f"{found:+.2f} [" in study_questions.real_dice({}).text.split(f" over {words}")[0]


@pytest.mark.slow
def test_the_comparator_of_torchvision_stops_goes_on_and_has_a_cell(tmp_path: Path) -> None:
    """Two sittings are one: the same rows as without a stop, of the same clips."""
    from tests.benchmarks.study_deeplab import run_deeplab

    try:
        import_torchvision()
    except InputError as error:
        pytest.skip(str(error))
    run = replace(part_runs("comparators")[0][1], storage=str(tmp_path / "runs"))
    run = replace(run, window=replace(run.window, size=32, frames=4), train=replace(run.train, steps=2, global_batch=2))
    run = replace(run, evaluation=replace(run.evaluation, cases=1, frames=16))
    cells = []
    for sitting in ("whole", "stopped"):
        folder, lines = RunStorage(str(tmp_path / sitting)), list[str]()
        run = replace(run, storage=str(tmp_path / "runs" / sitting))
        if sitting == "stopped":
            said = run_deeplab(run, folder, lines.append, ends=0.0, side=32)
            assert said.endswith("its time is over; the same command resumes it")
            assert len(list((tmp_path / "runs" / sitting).iterdir())) == 1  # what the next sitting goes on from
        assert run_deeplab(run, folder, lines.append, ends=None, side=32) == ""
        cells.append(read_cell(folder, "study_comparators_deeplab_mobilenet-seed0"))
        assert run_deeplab(run, folder, lambda line: pytest.fail(line), ends=None) == ""
    one, other = cells
    assert str(one.scores.to_pylist()) == str(other.scores.to_pylist())
    assert {"dice_all", "published_afd_es", "judge_score"} <= set(one.scores["metric"].to_pylist())
    assert 11_000_000 < one.sizes["deeplab_mobilenet"]["parameters"] < 11_100_000
