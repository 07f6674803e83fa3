"""Benchmarks: their list, the fields of each result, and the arithmetic of paired comparison."""

import os
import resource

import numpy as np
import pytest

from echodfkd.models.students.build import build_student
from echodfkd.runtime.cluster.host_memory import KEPT_MEMORY, kept_memory
from tests.benchmarks import cases, phantom, student_step, timing


def test_every_case_is_described() -> None:
    lines = cases.describe_cases()
    assert [line.split()[0] for line in lines] == list(cases.CASES)
    assert all(len(line.split()) > 4 for line in lines)


def test_a_result_names_case_machine_date_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cases, "load_case", lambda name: lambda report, quick: {"value": 1.0, "target": 2.0, "holds": False}
    )
    result = cases.run_case("fake", print)
    assert {"case", "value", "target", "holds", "date", "machine", "versions"} <= result.keys()
    assert {"python", "torch", "numpy"} <= result["versions"].keys()


def test_works_are_run_in_turn_and_none_always_after_the_same_other() -> None:
    order: list[str] = []
    works = {name: lambda name=name: (order.append(name), (float(len(order)),))[1] for name in "ab"}
    times = timing.interleave(works, rounds=2)
    assert order == ["a", "b", "a", "b", "b", "a"]
    assert times == {"a": [(3.0,), (6.0,)], "b": [(4.0,), (5.0,)]}


def test_a_ratio_pairs_the_rounds() -> None:
    ratio = timing.Ratio.of([2.0, 9.0, 8.0], [1.0, 3.0, 2.0])
    assert (ratio.median, ratio.low, ratio.high) == (3.0, 2.0, 4.0)
    assert str(ratio) == "3.00 [2.00, 4.00]"


def works_there(value: str) -> timing.Works:
    """Runs in another process: work that fails if 100 MB are not reused when they are allocated again."""
    if os.environ.get("ECHODFKD_TEST") != value:
        raise ValueError("another environment")

    def make_twice() -> None:
        for _ in range(2):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            np.ones(100 << 20, np.uint8)
        if resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before > 100:
            raise MemoryError("the memory was given back")

    return {"make twice": timing.timed(make_twice)}


def test_a_process_apart_has_its_own_environment_and_keeps_its_memory() -> None:
    with timing.process_apart({"ECHODFKD_TEST": "x", **KEPT_MEMORY}) as process:
        assert "ECHODFKD_TEST" not in os.environ
        wall, cpu = timing.works_apart(process, works_there, "x")["make twice"]()
        assert 0 < cpu
        assert 0 < wall
        with pytest.raises(ValueError, match="another environment"):
            timing.works_apart(process, works_there, "y")


def test_the_users_own_memory_variables_win(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept_memory() == KEPT_MEMORY
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "5")
    assert kept_memory() == {**KEPT_MEMORY, "MALLOC_MMAP_MAX_": "5"}


@pytest.mark.slow
def test_a_step_is_compared_in_both_precisions() -> None:
    setting = student_step.Setting(blocks=2, layers=1, size=8, clips=2, frames=2)
    lines: list[str] = []
    peaks = {"fp32": 1e9, "bf16": 1e9}
    rows = student_step.compare(setting, "cpu", lines.append, rounds=2, peaks=peaks, copy_rate=1e9)
    assert [row["precision"] for row in rows] == ["fp32", "bf16"]
    assert len(lines) == 2
    for row in rows:
        assert 0 < row["step_vs_authors"]["low"] <= row["step_vs_authors"]["median"]
        assert row["seconds"][f"ours_{row['precision']}"] > 0


def test_the_shortest_step_is_the_longer_of_arithmetic_and_traffic() -> None:
    """1 x 1 at 4 x 4 pixels, 12 filters, one frame: (9 * 13 * 48 + 12) * 16 multiply-accumulates, three passes."""
    student = build_student(blocks=1, layers=1, filters=12, norm="batch")
    setting = student_step.Setting(blocks=1, layers=1, size=4, clips=1, frames=1)
    arithmetic = student_step.least_seconds(student, setting, "fp32", peak=1.0, copy_rate=1e12)
    assert arithmetic == 6 * (9 * 13 * 48 + 12) * 16
    traffic = student_step.least_seconds(student, setting, "bf16", peak=1e12, copy_rate=1.0)
    assert traffic == 16 * (2 * (3 + 11 * 12) + 8 * 12)


def test_one_case_imports_one_module() -> None:
    assert cases.load_case("phantom_gpu") is phantom.phantom_gpu
    assert cases.load_case("student_step") is student_step.student_step


def test_a_renderer_agrees_with_itself_and_not_with_another(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    found = phantom.phantom_gpu(lines.append, quick=True)
    assert found["agrees"]
    assert (found["labels_apart"], found["levels_apart"]) == (0.0, 0.0)
    assert found["value"] == pytest.approx(phantom.FRAMES * found["clips_per_s"], rel=0.01)
    monkeypatch.setattr(phantom, "renderers_apart", lambda device, clips: (2 * phantom.LABELS_APART, 0.0))
    assert not phantom.phantom_gpu(lines.append, quick=True)["agrees"]
