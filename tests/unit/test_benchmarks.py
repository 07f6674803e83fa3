"""Benchmarks: their list and the fields that every result carries."""

import pytest

from echodfkd import benchmarks


def test_every_case_is_described() -> None:
    lines = benchmarks.describe_cases()
    assert [line.split()[0] for line in lines] == list(benchmarks.CASES)
    assert all(len(line.split()) > 4 for line in lines)


def test_a_result_says_what_where_and_with_which_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(benchmarks.CASES, "fake", lambda report: {"value": 1.0, "target": 2.0, "holds": False})
    result = benchmarks.run_case("fake", print)
    assert {"case", "value", "target", "holds", "machine", "versions"} <= result.keys()
    assert {"python", "torch", "numpy"} <= result["versions"].keys()
