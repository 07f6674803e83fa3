"""A study end to end on a local cluster: its runs, its three files, and going on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable

import pytest

from echodfkd.config.run import RunConfig, StudyConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.study import seed_configs
from echodfkd.reporting.rows import read_rows
from echodfkd.runtime.cluster.preemption import TIME_OVER
from echodfkd.runtime.study_run import run_study
from echodfkd.storage.files import RunStorage


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
