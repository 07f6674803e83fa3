"""The first two sentences of a run's page, for the runs that a reader meets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from echodfkd.reporting.page.verdict import held_out_dice, verdict


def score(mean: float, n: int = 24) -> dict[str, Any]:
    return {"dice_all": {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "n": n}}


def told(
    students: dict[str, dict[str, Any]],
    teacher: dict[str, Any],
    *,
    run: dict[str, Any] | None = None,
    to_come: int = 0,
    size: int = 56,
) -> str:
    config = {"teacher": {"kind": "embedded"}, "window": {"size": size}}
    rows: Any = SimpleNamespace(run={"plan_slots": 8} if run is None else run, config=config, scores=[1] * len(teacher))
    summary = {
        "run": "demo",
        "students": {name: {"scores": scores} for name, scores in students.items()},
        "teacher": {"scores": teacher},
        "ledger": {"clips": 8, "to_come": to_come},
    }
    return " ".join(verdict(rows, summary))


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (
            "The best of 2 students, a reaches a Dice of 0.957 (95 % interval 0.947 to 0.967) on 24 held-out cases; its"
            " teacher reaches 0.973. To use it, run echodfkd predict VIDEO --student demo --name a",
            ({"a": score(0.957), "b": score(0.9)}, score(0.973)),
        ),
        ("The student a reaches a Dice of 0.700 on 1 held-out case;", ({"a": score(0.7, 1)}, score(0.973))),
        (
            "b has next to no overlap with the truth yet: train longer",
            ({"a": score(0.9), "b": score(0.01)}, score(0.97)),
        ),
        ("That is far below the teacher: train longer", ({"a": score(0.5)}, score(0.97))),
        ("These are few cases: set evaluation.cases to 24 or more", ({"a": score(0.95, 4)}, score(0.97))),
        ("The teacher is below its own held-out Dice of 0.970", ({"a": score(0.0)}, score(0.599))),
        ("and no Dice with the truth is known. Score the checkpoints with echodfkd evaluate", ({"a": {}}, {})),
        ("The cases carry no truth: compare with the teacher", ({"a": {}}, {"judge_score": {"mean": 0.5}})),
    ],
)
def test_it_names_the_first_thing_in_the_way(words: str, facts: Any) -> None:
    assert words in told(*facts)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({}, "The run has not ended: these are the scores so far"),
        ({"stopped": "stopped by SIGTERM"}, "The run was stopped before its end: the same command goes on with it."),
        ({"error": "the loss is not finite"}, "The run failed before its end"),
    ],
)
def test_a_run_with_clips_to_come_says_how_it_goes_on(run: dict[str, Any], words: str) -> None:
    assert words in told({"a": score(0.01)}, score(0.97), run=run, to_come=4)


def test_the_held_out_score_is_that_of_the_nearest_size() -> None:
    def of(**config: Any) -> float | None:
        return held_out_dice(SimpleNamespace(config=config))  # type: ignore[arg-type]

    assert of(window={"size": 100}) == pytest.approx(0.9730148)
    assert of(window={"size": 56}, teacher={"kind": "embedded_wild"}) is not None
    assert of(teacher={"kind": "onnx"}) is None
    assert of(teacher={"kind": "embedded", "weights": "mine.safetensors"}) is None
    assert of(teacher={"kind": "../../etc/passwd"}) is None
