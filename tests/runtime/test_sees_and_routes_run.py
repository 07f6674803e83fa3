"""A run whose teachers see clearer images than the student and teach only clips that go to them, on a local Ray."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from echodfkd.config.run import RunConfig
from echodfkd.reporting.rows import read_rows
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from tests.integration.helpers_faults import final_weights, train_without_ray

PARTS = "{kind: mixture, parts: {clear: {domain: clear}, hand: {domain: handheld, weight: 2}}}"
OPTIONS = [
    f"source={PARTS}",
    f"evaluation.source={PARTS}",
    "teacher.kind=ensemble",
    "teacher.pools=each",
    "teacher.num_cpus=0.5",
    "teacher.members={one: {num_cpus: 0.5}, two: {kind: embedded_chambers, num_cpus: 0.5}}",
    "teacher.route={by: source, to: {clear: one}, default: two}",
    "teacher.sees={domain: clear, size: 48}",
    "train.engine=plain",
    "evaluation.cases=6",
    "evaluation.judge=none",
]


@pytest.mark.ray
@pytest.mark.slow  # a run; tests/unit/teaching has test_sees.py and test_routing.py without Ray
@pytest.mark.usefixtures("local_ray")
def test_each_clip_is_taught_by_its_own_teacher_on_a_rendering_of_its_own(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = tiny_config(*OPTIONS)
    summary = run_distillation(config, lambda line: None)
    assert summary["ledger"] == {"clips": 24, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    storage = RunStorage(config.root)
    assert check_ledger(storage, config.plan_slots).problems == []
    rows = read_rows(storage).ledger.to_pylist()
    assert {(row["source"], row["route"]) for row in rows} == {("clear", "one"), ("hand", "two")}
    assert all(row["seen_id"] == f"{row['clip_id']}+clear-48px" for row in rows)
    assert {route: facts["clips"] for route, facts in summary["teacher"]["routes"].items()} == {"one": 8, "two": 16}
    assert {route: facts["scores"]["dice_all"]["n"] for route, facts in summary["teacher"]["routes"].items()} == {
        "one": 2,
        "two": 4,
    }
    stages = summary["pipeline"]["stages"]
    assert (stages["teacher.one"]["clips"], stages["teacher.two"]["clips"]) == (8, 16)
    assert "8 clips were taught by one, with a Dice of 0." in Path(config.root, "report.html").read_text()

    together = {name: dataclasses.replace(one, num_cpus=1.0) for name, one in config.teacher.members.items()}
    one = dataclasses.replace(config.teacher, pools="one", members=together)
    alone = train_without_ray(dataclasses.replace(config, teacher=one), tmp_path / "alone")
    assert final_weights(alone) == final_weights(config)
