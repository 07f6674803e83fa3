"""Two runs that are submitted at once to a cluster that holds one of them."""

from pathlib import Path

import pytest

from tests.integration.helpers_namespaces import run_apart


@pytest.mark.ray
@pytest.mark.slow  # two minutes: four runs, two by two, each in processes of its own
def test_one_runs_and_the_other_waits_and_says_for_whom(short_path: Path) -> None:
    """Neither holds half of what both need. `python tests/integration/two_runs.py FOLDER 20` has more tries."""
    found = run_apart("tests/integration/two_runs.py", short_path, prepare="ip link set lo up", timeout_s=540)
    for number, pair in enumerate(found["tries"]):
        assert [run["code"] for run in pair] == [0, 0], pair
        ledger = {"clips": 24, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
        assert [run["ledger"] for run in pair] == [ledger, ledger]
        (waiter,) = [place for place, run in enumerate(pair) if run["room"]]
        first, *_, last = pair[waiter]["room"]
        assert "waiting for room, " in first
        assert f"run {'ab'[1 - waiter]}{number} (job " in first
        assert last.startswith("there is room after ")
    assert not [actor for actor in found["left"] if actor["namespace"] == "echodfkd"]
