"""Malformed inputs in numbers: every one is read or refused with a sentence; none crashes, hangs or shows a traceback.

``make test`` tries some hundreds, ``make test-slow`` more than ten thousand. FUZZ_SEED=N chooses others;
FUZZ_TIMES=N multiplies the counts of the slow run.
"""

import os

import pytest

from tests.fuzz.harness import Outcome, run_plan

SEED = int(os.environ.get("FUZZ_SEED", "1"))
FEW = {
    "video": 25,
    "file_list": 15,
    "tracings": 12,
    "contours": 10,
    "folder": 12,
    "table": 15,
    "config": 20,
    "overrides": 20,
    "checkpoint": 15,
    "report": 2,
    "stored": 10,
    "run_folder": 7,
    "lease": 30,
    "weights": 7,
    "onnx_student": 20,
    "dicom": 40,
    "seg_npz": 20,
    "mask_rows": 20,
    "reference": 15,
    "camus": 20,
    "arrays": 20,
    "bundle": 15,
    "generator": 20,
    "privacy": 20,
    "painter": 10,
    "mask_request": 20,
    "mask_answer": 20,
}
MANY = {
    "video": 3000,
    "file_list": 1200,
    "tracings": 900,
    "contours": 600,
    "folder": 800,
    "table": 1500,
    "config": 1200,
    "overrides": 1000,
    "checkpoint": 900,
    "report": 400,
    "stored": 500,
    "run_folder": 800,
    "lease": 2000,
    "weights": 500,
    "onnx_student": 1000,
    "dicom": 3000,
    "seg_npz": 2000,
    "mask_rows": 1200,
    "reference": 800,
    "camus": 1000,
    "arrays": 1000,
    "generator": 1500,
    "privacy": 1000,
    "painter": 600,
    "bundle": 1000,
    "mask_request": 2000,
    "mask_answer": 2000,
}


def check(outcomes: dict[str, Outcome]) -> None:
    """Print what became of how many, and fail with the first failures and how to repeat them."""
    total = 0
    print(f"\nseed {SEED}")
    for target, outcome in outcomes.items():
        total += sum(outcome.counts.values())
        print(f"{target:<12} {sum(outcome.counts.values()):6}  " + str(dict(sorted(outcome.counts.items()))))
    print(f"{'all':<12} {total:6}")
    failures = [text for outcome in outcomes.values() for text in outcome.failures]
    assert not failures, f"{len(failures)} failures; the first:\n" + "\n\n".join(failures[:3])
    for target, outcome in outcomes.items():
        assert outcome.counts["refused"] > 0, f"{target}: nothing was refused, so that nothing was tested"


def test_some_hundred_malformed_inputs() -> None:
    check(run_plan(FEW, SEED))


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("target", sorted(MANY))
def test_more_than_ten_thousand_malformed_inputs(target: str) -> None:
    assert sum(MANY.values()) >= 10_000
    check(run_plan({target: MANY[target] * int(os.environ.get("FUZZ_TIMES", "1"))}, SEED))


def test_the_harness_sees_crashes_and_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that ends its process, one that hangs, one that eats memory: each is one failure, and the rest runs."""
    from tests.fuzz import harness

    monkeypatch.setattr(harness, "DEADLINE_S", 8.0)
    monkeypatch.setenv("FUZZ_TARGETS", "tests.fuzz.bad_targets")
    outcomes = run_plan({"crash": 3, "hang": 2, "memory": 2}, SEED)
    assert [dict(outcome.counts) for outcome in outcomes.values()] == [
        {"refused": 2, "failed": 1},
        {"refused": 1, "failed": 1},
        {"refused": 1, "failed": 1},
    ]
    first = outcomes["crash"].failures[0]
    assert first.startswith("again: python -m tests.fuzz.harness 1 crash 1\n")
    assert "with code -11" in first
    assert "was silent for 8 s" in outcomes["hang"].failures[0]
    assert "MemoryError" in outcomes["memory"].failures[0]
