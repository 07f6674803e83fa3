"""The scale benchmark runs in its short version."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.ray
@pytest.mark.slow
def test_more_teachers_teach_more_and_more_segments_take_no_more_memory() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    few, many = found["stream"]
    assert (few["teachers"], many["teachers"]) == (2, 8)
    assert many["batches_s"] > 1.5 * few["batches_s"]
    [pool] = found["pools"]
    assert (pool["teach_s"], pool["learn_s"], pool["bound"]) == (1.0, 0.2, 6.0)
    assert pool["gain"] > 3, "five teachers beside the student; the benchmark itself holds it to 0.8 of 6"
    assert found["wall_over_busiest"] >= 1
    short, long = found["runs"]
    assert (short["segments"], long["segments"]) == (2, 6)
    for run in found["runs"]:
        assert run["ledger"] == {"clips": run["clips"], "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
        assert run["lag_s"]["most"] > 0
    assert max(found["growth"].values()) < 1.25, "three times as long; the benchmark itself holds ten times to 1.1"
