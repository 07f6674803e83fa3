"""The environment that a cluster's workers get."""

from __future__ import annotations

from typing import Any

import pytest

from echodfkd.config.run import RayConfig
from echodfkd.runtime.cluster import connection
from echodfkd.runtime.cluster.environment import QUIET_RAY
from echodfkd.runtime.cluster.host_memory import KEPT_MEMORY


@pytest.mark.parametrize(
    ("address", "own", "rounds"), [("local", "", "1000"), ("local", "7", "7"), ("10.0.0.9:6379", "", None)]
)
def test_threads_of_a_local_cluster_soon_give_their_core_back(
    address: str, own: str, rounds: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own variable counts before ours, and processes of a real cluster have their cores for themselves."""
    asked: list[dict[str, Any]] = []
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if own:
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
    monkeypatch.setattr(connection.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(connection.ray, "init", lambda **options: asked.append(options))
    monkeypatch.setattr(connection.ray, "shutdown", lambda: None)
    monkeypatch.setattr(connection, "check_listening", lambda address: None)
    with connection.connected(RayConfig(address=address, allow_unauthenticated=True)):
        variables = asked[0]["runtime_env"]["env_vars"]
    assert variables.get("GOMP_SPINCOUNT") == rounds
    assert {**QUIET_RAY, **KEPT_MEMORY}.items() <= variables.items()
