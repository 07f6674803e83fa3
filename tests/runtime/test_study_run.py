"""A study end to end on a local cluster: its runs, its three files, and going on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from echodfkd.config.file import load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.run import RunConfig, StudyConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.study import seed_configs, study_groups
from echodfkd.reporting.rows import RunRows, read_rows
from echodfkd.reporting.study.cell import read_cell, write_cell
from echodfkd.runtime.cluster.preemption import TIME_OVER
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.runtime.study_run import run_study
from echodfkd.runtime.synthesis_run import run_synthesis
from echodfkd.storage.files import RunStorage
from tests.benchmarks.study import run_parts, second_domain

TINY = [
    *("train.steps=2", "train.checkpoint_every=1", "window.size=32", "window.frames=6", "evaluation.cases=2"),
    *("evaluation.frames=40", "train.num_cpus=1", "study.seeds=2", "ray.progress_s=0"),
]
"""Cells of the project's study, as small as can be."""


def test_runs_of_a_study_are_runs_of_their_own() -> None:
    config = RunConfig(name="s", seed=5, students={"a": StudentConfig()}, study=StudyConfig(seeds=2))
    assert [(run.name, run.seed) for run in seed_configs(config)] == [("s-seed5", 5), ("s-seed6", 6)]


@pytest.mark.slow
@pytest.mark.ray
def test_a_study_of_two_seeds(local_ray: None, tiny_config: Callable[..., RunConfig]) -> None:
    students = "students.b={blocks: 2, layers: 1, filters: 0, recurrence: mingru, skips: true, activation: relu}"
    domains = (
        "evaluation.source.kind=mixture",
        "evaluation.source.parts={clear: {domain: clear}, wild: {domain: wild}}",
    )
    config = tiny_config(students, *domains, "study.seeds=2", "name=study", "train.steps=3", "evaluation.cases=2")
    lines: list[str] = []
    short = dataclasses.replace(config, study=dataclasses.replace(config.study, minutes=0.02))
    assert run_study(short, lines.append) == {"stopped": f"study study: seed 0 was {TIME_OVER}"}
    lines.clear()
    study = run_study(config, lines.append)
    assert [line.split(", ETA ")[0] for line in lines if line.startswith("study")] == [
        "study study: run 1 of 2, seed 0",
        "study study: run 2 of 2, seed 1",
    ]
    storage = RunStorage(study["root"])
    assert {"study.json", "study.md", "study.png"} <= set(storage.list(""))
    stored = json.loads(storage.read("study.json"))
    assert stored == {key: value for key, value in study.items() if key not in ("root", "stopped")}
    for number, run in enumerate(seed_configs(config)):
        rows = read_rows(RunStorage(run.root)).scores.to_pylist()
        last = [row for row in rows if (row["student"], row["step"], row["metric"]) == ("b", 3, "dice_all")]
        assert len(last) == config.evaluation.cases
        by_domain = {row["clip_id"].split("-")[0]: row["value"] for row in last}
        for domain in ("clear", "wild"):
            assert stored["students"]["b"]["domains"][domain]["runs"][number] == by_domain[domain]
        mean = sum(row["value"] for row in last) / len(last)
        assert stored["students"]["b"]["metrics"]["dice_all"]["runs"][number] == pytest.approx(mean, abs=1e-12)
    assert "| student | clear | wild |" in storage.read("study.md").decode()
    for run in seed_configs(config):
        shutil.rmtree(run.root)
    assert run_study(config, lines.append) == study  # nothing is trained or scored again: the cells are enough


@pytest.mark.slow
@pytest.mark.ray
def test_the_smallest_cell_run_again_has_the_same_rows(local_ray: None, tmp_path: Path) -> None:
    options, order = (
        [*TINY, f"storage={tmp_path}/runs"],
        [(name, "ascending") for name in ("student", "metric", "clip_id")],
    )
    said = run_parts(["specialists"], f"{tmp_path}/rows", options, 1e-3)
    assert said.endswith(f"study study_specialists: generalist, seed 0 was {TIME_OVER}")
    scores = []
    for place in ("one", "other"):
        config = load_config("configs/study/specialists.yaml", [*TINY, f"storage={tmp_path}/{place}"])
        scores.append(cell_of(study_groups(config)[""][0]["generalist"], tmp_path / place).scores.sort_by(order))
    assert scores[0].num_rows > 20
    assert str(scores[0].to_pylist()) == str(scores[1].to_pylist())  # bit for bit; NaN is NaN


def cell_of(run: RunConfig, folder: Path) -> RunRows:
    """Run a cell, write it and read it."""
    run_distillation(run, lambda line: None)
    rows = RunStorage(str(folder / "rows"))
    write_cell(rows, read_rows(RunStorage(run.root)), config_hash(run))
    return read_cell(rows, run.name)


VARIANTS = load_config("configs/study/sizes.yaml", []).study.variants


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_kind_of_clips_of_the_study_trains_and_is_scored(variant: str, local_ray: None, tmp_path: Path) -> None:
    config = load_config("configs/study/sizes.yaml", [*TINY, f"storage={tmp_path}/runs"])
    run = study_groups(config)[""][0][variant]
    if run.source.path:
        other = str(tmp_path / "other")
        run_synthesis(second_domain(config, other, clips=3), lambda line: None)
        run = dataclasses.replace(run, source=dataclasses.replace(run.source, path=other))
    run = dataclasses.replace(run, students={name: config.students[name] for name in ("paper_2x1", "ours_2x1")})
    cell = cell_of(run, tmp_path)
    assert cell.scored_steps("ours_2x1") == [1, 2]
    assert {"judge_score", "published_afd_ed", "ef_area", "es_error_frames"} <= set(cell.scores["metric"].to_pylist())
    teacher = [row["value"] for row in cell.scores.to_pylist() if (row["student"], row["metric"]) == ("", "dice_all")]
    assert (teacher == [1.0, 1.0]) == (variant == "labels")
