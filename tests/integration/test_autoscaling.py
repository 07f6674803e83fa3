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


def test_no_change_of_segments_is_seen_while_teachers_grow(short_path: Path) -> None:
    """Blocks taught in 20 s after a change are those of the 20 s before it, once the pool has grown."""
    found = run_apart("tests/integration/segments_run.py", short_path, prepare="ip link set lo up", timeout_s=590)
    assert found["error"] is None, found
    assert found["ledger"] == {"clips": 2160, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    updates, taught = {int(step): time for step, time in found["updates"].items()}, found["taught"]
    changes = range(61, 540, 60)
    assert (found["segment_steps"], len(changes)) == (60, 8)
    still = {step: round(updates[step] - updates[step - 1], 1) for step in changes}
    rates = {}
    for step in changes:
        before, after = (sum(0 <= end - updates[step] - shift < 20 for end in taught) for shift in (-20, 0))
        rates[step] = (before, after)
    print(json.dumps({"stood_still_s": still, "blocks_per_20_s": rates, "living": found["living"][::10]}))
    assert max(still.values()) <= 5
    grown = [pair for pair in list(rates.values())[:-1] if pair[0] >= 36]  # of 40 by two; the last has no 20 s left
    assert len(grown) >= 3
    assert all(abs(after - before) <= 0.1 * before for before, after in grown)
