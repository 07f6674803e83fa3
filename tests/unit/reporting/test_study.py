"""A study's arithmetic on made-up runs: every interval and difference recomputed by another route."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import special, stats

from echodfkd.config.file import load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.study import seed_configs, variant_configs
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.students.cost import student_cost
from echodfkd.reporting.rows import RunRows
from echodfkd.reporting.study.compared import compare, score_interval, student_interval
from echodfkd.reporting.study.study import build_study, cost_table, students_markdown, students_of
from echodfkd.reporting.study.study_chart import study_chart
from echodfkd.storage import schemas

STUDENTS = {"paper": {"blocks": 2, "layers": 1, "filters": 12, "norm": "batch"}}
STUDENTS["skips"] = {**STUDENTS["paper"], "filters": 0, "skips": True}
EFFECT = 0.02


def scores_of(seed: int, student: str) -> np.ndarray:
    """Hard and easy cases, a lucky or unlucky run, and little else: pairing takes the first two away."""
    case, run = np.random.default_rng(seed).normal(0, 0.1, 6), [0.0, 0.05, -0.05][seed]
    own = np.random.default_rng([seed, *student.encode()]).normal(0, 0.002, 6)
    return 0.8 + case + run + own + (EFFECT if student == "skips" else 0.0)


def fake_run(
    seed: int, *, students: dict[str, Any] = STUDENTS, without: str = "", domains: tuple[str, ...] = ("default",)
) -> RunRows:
    """Scores at two steps, of which only the last counts."""
    rows = []
    for student in students:
        for step in (5, 10):
            values = scores_of(seed, student) if step == 10 else np.zeros(6)
            for case, value in enumerate(values):
                for metric in {"dice_all", "dice_ed", "dice_es", "area_jitter"} - {without}:
                    row = dict.fromkeys(schemas.SCORE_SCHEMA.names)
                    row |= {"clip_id": f"s{seed}-c{case}", "teacher_id": "t", "student": student, "step": step}
                    row |= {"metric": metric, "reference": "truth", "unit": "", "threshold": 0.5, "n": 1}
                    rows.append({**row, "value": math.nan if metric == "area_jitter" and case == 0 else float(value)})
    config = {
        "name": f"study-seed{seed}",
        "seed": seed,
        "students": students,
        "window": {"size": 16, "frames": 4},
        "train": {"steps": 10, "global_batch": 2},
    }
    empty = pa.table({})
    scores = pa.Table.from_pylist(rows, schema=schemas.SCORE_SCHEMA)
    clips = [f"s{seed}-c{case}" for case in range(6)]
    names = [domains[case % len(domains)] for case in range(6)]
    cases = pa.table({"clip_id": clips, "domain": names, "ef_percent": [50.0 + case for case in range(6)]})
    return RunRows(config, {}, {}, (), scores, empty, empty, empty, pa.table({"student": pa.array([], "str")}), cases)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_interval_is_scipys(count: int) -> None:
    values = np.random.default_rng(count).normal(3, 1, count)
    found = student_interval(values)
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high), rel=1e-12)
    assert found.n == count


@pytest.mark.parametrize(
    ("metric", "values", "to", "back"),
    [
        ("dice_all", [0.46, 0.76, 0.77], special.logit, special.expit),
        ("ece", [0.001, 0.02, 0.3], special.logit, special.expit),
        ("afd_ed", [1.0, 2.0, 31.0], np.log, np.exp),
    ],
)
def test_an_interval_keeps_to_the_range_of_its_score(metric: str, values: list[float], to: Any, back: Any) -> None:
    """Student's interval of these values themselves leaves it."""
    found, plain = score_interval(values, metric), student_interval(values)
    assert plain.low < 0 or plain.high > 1
    at = to(np.array(values))
    assert (found.low, found.high) == pytest.approx(back(stats.t.interval(0.95, 2, at.mean(), stats.sem(at))))
    assert found.low < found.mean < found.high
    assert (found.mean, found.n) == (pytest.approx(np.mean(values)), 3)


def test_an_interval_of_a_perfect_score_is_cut_at_the_end_of_the_range() -> None:
    assert score_interval([1.0, 0.9, 0.8], "dice_all").high == 1.0
    assert score_interval([0.0, 0.0, 9.0], "hd95_all_mm").low == 0.0
    same = score_interval([1.0, 1.0], "dice_all")
    assert (same.low, same.mean, same.high) == (1.0, 1.0, 1.0)


def test_differences_are_paired_over_cases() -> None:
    values = [{"a": 1.0, "b": 2.0, "only": 9.0}, {"c": 3.0, "d": math.nan}]
    found = compare(values, [{"a": 0.5, "b": 1.0, "other": 7.0}, {"c": 2.0, "d": 1.0}])
    assert found.over_runs.mean == pytest.approx((0.75 + 1.0) / 2)
    assert found.over_cases.n == 3
    assert not found.is_clear  # 0.75 and 1.0 over two runs: an interval of +- 1.6


def test_a_study_sees_a_small_effect_behind_hard_cases_and_lucky_runs() -> None:
    study = build_study([{"": fake_run(seed)} for seed in range(3)], baseline="paper")
    paper, skips = (study["students"][name]["metrics"]["dice_all"] for name in ("paper", "skips"))
    means = [scores_of(seed, "skips").mean() for seed in range(3)]
    assert skips["runs"] == pytest.approx(means, abs=1e-12)
    assert (skips["mean"], skips["n"]) == (pytest.approx(np.mean(means), abs=1e-12), 3)
    assert skips["low"] < paper["mean"] < skips["high"]  # side by side, nothing is to be seen
    difference = skips["difference"]
    wanted = [(scores_of(seed, "skips") - scores_of(seed, "paper")).mean() for seed in range(3)]
    assert difference["over_runs"]["mean"] == pytest.approx(np.mean(wanted), abs=1e-12)
    assert difference["clear"]
    assert difference["over_cases"]["n"] == 18
    assert skips["difference"]["over_runs"]["low"] < EFFECT < skips["difference"]["over_runs"]["high"]
    jitter = study["students"]["skips"]["metrics"]["area_jitter"]
    assert jitter["runs"] == pytest.approx([scores_of(seed, "skips")[1:].mean() for seed in range(3)], abs=1e-12)
    assert paper["difference"]["over_runs"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 3}
    assert not paper["difference"]["clear"]
    assert (study["study"], study["seeds"], study["cases_per_run"]) == ("study", [0, 1, 2], 6)
    json.dumps(study, allow_nan=False)


def test_the_table_and_the_chart_show_every_student() -> None:
    study = build_study([{"": fake_run(seed)} for seed in range(2)], baseline="paper")
    lines = students_markdown(study).splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert lines[2].startswith("| paper | 39,577 | 4.1 | ")
    assert lines[3].startswith("| skips | 38,635 | 4.3 | ")
    assert "Dice - paper" in lines[0]
    assert study_chart(study).startswith(b"\x89PNG")
    for student in study["students"].values():
        student["parameters"], student["macs_per_frame"] = 1, 1
        student["metrics"]["ece"] = student["metrics"]["area_jitter"]
    assert study_chart(study).startswith(b"\x89PNG")  # equal costs: scores in their place, those that there are


def test_students_stand_by_the_domain_of_the_cases() -> None:
    """Even cases are of one domain, odd ones of the other; with one domain there is no such table."""
    runs = [{"": fake_run(seed, domains=("clear", "wild"))} for seed in range(2)]
    study = build_study(runs, baseline="paper")
    for name, student in study["students"].items():
        assert list(student["domains"]) == ["all", "clear", "wild"]
        assert student["domains"]["all"] == student["metrics"]["dice_all"]
        for start, domain in enumerate(("clear", "wild")):
            means = [scores_of(seed, name)[start::2].mean() for seed in range(2)]
            assert student["domains"][domain]["runs"] == pytest.approx(means, abs=1e-12)
    text = students_markdown(study)
    assert "| student | clear | wild |" in text
    mean = np.mean([scores_of(seed, "skips")[1::2].mean() for seed in range(2)])
    assert f"| {mean:.3f} [" in text.splitlines()[-1]
    assert "domain" not in students_markdown(build_study([{"": fake_run(0)}, {"": fake_run(1)}], baseline="paper"))


def test_what_was_not_measured_is_a_dash() -> None:
    study = build_study([{"": fake_run(seed, without="dice_es")} for seed in range(2)], baseline="paper")
    assert "dice_es" not in study["students"]["paper"]["metrics"]
    assert "| - |" in students_markdown(study).splitlines()[2]
    assert study_chart(study)


def test_a_run_without_scores_is_named() -> None:
    run = fake_run(0)
    run.config["students"] = {**STUDENTS, "gone": STUDENTS["paper"]}
    with pytest.raises(InputError, match="run study-seed0: student gone has no scores; was the run evaluated"):
        build_study([{"": run}, {"": run}], baseline="paper")


def test_sizes_and_costs_without_a_run() -> None:
    table = cost_table(STUDENTS).splitlines()
    assert table[2] == "| paper | 12, 24 | 39,577 | 100.0% | 201 | 12, 24, 48 | 174,721 | 100.0% | 331 |"
    assert "| 12, 23 | 38,635 | 97.6% |" in table[3]
    assert student_cost(STUDENTS["paper"], 112)["macs_per_frame"] == 200_653_824


def test_more_seeds_do_not_void_the_runs_there_are() -> None:
    more = load_config("configs/study.yaml", ["study.seeds=4"])
    assert config_hash(more) == config_hash(load_config("configs/study.yaml"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("study.seeds=1", "study.seeds: got 1, must lie in 2 .. 10"),
        ("study.seeds=11", "study.seeds: got 11, must lie in 2 .. 10"),
        ("study.variants={a: [seed=3]}", "study.variants.a: got seed=3; expected a name of up to 40 letters"),
        ("study.variants={a b: []}", "study.variants.a b: got ; expected a name"),
        ("study.baseline=best", "study.baseline: got 'best', allowed are paper, skips,"),
    ],
)
def test_a_study_that_cannot_be_is_refused(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("configs/study.yaml", [override])
    assert words in str(caught.value)


def test_variants_are_runs_of_their_own_with_what_they_change() -> None:
    config = load_config("configs/fractions.yaml")
    runs = variant_configs(seed_configs(config)[1])
    assert [run.name for run in runs.values()] == [f"fractions-real_{share}-seed1" for share in (0, 10, 50, 100)]
    sources = [run.source for run in runs.values()]
    assert [source.kind for source in sources] == ["phantom", "mixture", "mixture", "phantom"]
    assert [source.domain for source in sources] == ["default", "default", "default", "handheld"]
    assert {name: part.weight for name, part in sources[1].parts.items()} == {"synthetic": 9, "real": 1}
    assert sources[2].parts["real"].domain == "handheld"
    same = [dataclasses.replace(run, name="", source=config.source) for run in runs.values()]
    assert all(run == same[0] for run in same)  # all else, and so the held-out cases, are alike
    assert len({config_hash(run) for run in runs.values()}) == 4
    assert list(config.compared) == list(runs)
    assert variant_configs(load_config("configs/study.yaml")) == {"": load_config("configs/study.yaml")}


def test_variants_stand_side_by_side_and_stay_paired() -> None:
    """The same rows under two names differ by 0 in every case; other rows by their own difference."""
    runs = [fake_run(seed, students={"paper": STUDENTS["paper"]}) for seed in range(2)]
    others = [fake_run(seed, students={"skips": STUDENTS["skips"]}) for seed in range(2)]
    variants = [{"old": run, "twin": run, "new": other} for run, other in zip(runs, others, strict=True)]
    study = build_study(variants, baseline="old")
    assert list(study["students"]) == ["old", "twin", "new"]
    found = {name: student["metrics"]["dice_all"]["difference"] for name, student in study["students"].items()}
    assert found["twin"]["over_cases"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 12}
    wanted = np.mean([scores_of(seed, "skips") - scores_of(seed, "paper") for seed in range(2)])
    assert found["new"]["over_runs"]["mean"] == pytest.approx(wanted, abs=1e-12)
    found = students_of({"old": fake_run(0), "new": fake_run(0)})
    assert list(found) == ["paper_old", "skips_old", "paper_new", "skips_new"]
    assert (found["skips_new"].student, found["skips_new"].step) == ("skips", 10)
