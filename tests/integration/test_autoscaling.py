"""Ray's own autoscaler brings what a run needs to a cluster that has a head alone, and takes it away again."""

import json
from pathlib import Path

import pytest

from tests.integration.helpers_namespaces import run_apart

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # some two minutes: nodes must come, work, and idle


def test_nodes_come_when_a_run_asks_and_go_when_it_is_over(short_path: Path) -> None:
    found = run_apart("tests/integration/autoscaling_run.py", short_path, prepare="ip link set lo up", timeout_s=540)
    assert found["error"] is None, found
    assert found["ledger"] == {"clips": 24, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    seen = [types for _, types in found["events"]]
    assert seen[0] == ["head"]
    assert any({"head", "teacher", "student", "eval"} <= set(types) for types in seen)
    assert all(types.count("teacher") <= 2 for types in seen)
    assert found["last_nodes"] == ["head"]
    assert found["lines"][0].startswith("waiting up to 120 s for nodes: train: 0 of 1 student processes fit")
    assert found["lines"][1].startswith("the cluster holds every role after")
    print(json.dumps(found["events"]), found["ended_s"])
