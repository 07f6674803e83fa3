"""The GPU placement path without a GPU: nodes that declare GPUs, roles that ask for them, labels that part them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.ray
@pytest.mark.slow  # a minute for a cluster of its own
def test_each_role_lands_on_its_own_nodes(tmp_path: Path) -> None:
    """In a process of its own: the session's cluster has one node."""
    done = subprocess.run(
        [sys.executable, "tests/integration/fake_gpu_cluster.py", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["error"] is None, result
    assert result["placed"]["teacher"] == ["teacher"]
    assert result["placed"]["students"] == ["student"]
    assert result["placed"]["evaluator"] == ["eval"]
    assert "eval" not in result["placed"]["source"]
    assert result["ledger"] == {"clips": 24, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
