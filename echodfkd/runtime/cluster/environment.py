"""The environment that Ray reads when it is imported; nothing here imports it."""

from __future__ import annotations

import os
import secrets

QUIET_RAY = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_task_events_max_num_task_in_gcs": "5000",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node|ServeController.graceful_shutdown failed",
}
"""Environment of the driver and of every worker: one progress line of ours instead of many of Ray's. The last entry
hides a warning about many roles on few cores, and one about a service that has ended as it should. The one before
bounds the records of finished tasks in a local cluster: some 3 KB each, of which Ray keeps 100,000."""

SHARED_CORES = {"GOMP_SPINCOUNT": "1000"}
"""Environment of the workers of a local cluster, whose parts share the machine's cores. A thread of torch that waits
for its fellows holds its core for so many rounds before it sleeps: 300,000 (3 ms) by libgomp's default, while a fellow
may stand in line for that very core, and a step has thousands of such waits. On idle cores the rounds are worth a tenth
of a step, on busy ones a step without them takes a tenth of the time or less (docs/explanation/performance.md)."""


def shared_cores() -> dict[str, str]:
    """`SHARED_CORES`; a variable that is already set in this process keeps its value."""
    return {name: os.environ.get(name, value) for name, value in SHARED_CORES.items()}


def cluster_address(option: str) -> str:
    """Resolve `ray.address`: auto is RAY_ADDRESS if that is set, else a new local cluster."""
    return (os.environ.get("RAY_ADDRESS") or "local") if option == "auto" else option


def prepare_ray(address: str) -> None:
    """Set the environment that Ray reads when it is imported: call this before the first import of ray.

    A local cluster listens on every interface, so it gets a token of its own. The token is set in the environment:
    as a file, it would stay behind and break later `ray start` commands.
    """
    for name, value in QUIET_RAY.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if cluster_address(address) == "local" and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
