"""What every job does around its work: parse, print the resolved config, turn errors into one sentence."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from typing import Any

from echodfkd.config import RunConfig
from echodfkd.config_file import config_to_yaml, load_config
from echodfkd.errors import EchoDFKDError
from echodfkd.redaction import redact

QUIET_RAY = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_task_events_max_num_task_in_gcs": "5000",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node|ServeController.graceful_shutdown failed",
}
"""Environment of the driver and of every worker: our progress line instead of Ray's many. (The last one hides a
warning about few cores and many roles, and what Ray says of a service that has ended in order; the one before bounds
what a local cluster remembers of tasks that are over, some 3 KB each, of which Ray keeps 100,000.)"""


def cluster_address(option: str) -> str:
    """What `ray.address` stands for here: auto is RAY_ADDRESS where it is set, else a new local cluster."""
    return (os.environ.get("RAY_ADDRESS") or "local") if option == "auto" else option


def prepare_ray(address: str) -> None:
    """Set the environment that Ray reads when it is imported: call this before the first import of ray.

    The ports of a local cluster listen on every interface, so that it gets a token of its own: only holders get
    in. A token in the environment leaves no file behind, which later `ray start` commands would trip over.
    """
    for name, value in QUIET_RAY.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if cluster_address(address) == "local" and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def run_job(
    work: Callable[[RunConfig], dict[str, Any]], *, description: str, arguments: Sequence[str] | None = None
) -> int:
    """Parse ``--config FILE [--dry-run] [key=value ...]`` and do the work.

    The last line on standard output is one JSON object. Exit codes: 0 done, 1 the run failed, 2 the command or
    the config is wrong, 130 interrupted.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", metavar="FILE", help="YAML file of the run (see configs/)")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and stop")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. train.steps=100")
    parsed = parser.parse_args(arguments)
    try:
        config = load_config(parsed.config, parsed.overrides)
    except EchoDFKDError as error:
        return fail(error, code=2)
    if parsed.dry_run:
        print(config_to_yaml(config), end="")  # without secrets
        return _print_estimate(config)
    prepare_ray(config.ray.address)
    return guarded(lambda: work(config))


def _print_estimate(config: RunConfig) -> int:
    """Time and cost by the pilot's rates, as comments of the YAML before them. 1 where the pilot cannot be used."""
    if not config.sizing.pilot:
        return 0
    from echodfkd.sizing import estimate_run

    try:
        lines = estimate_run(config).lines()
    except EchoDFKDError as error:
        return fail(error, code=1)
    print("\n".join(f"# {redact(line)}" for line in lines))
    return 0


def guarded(work: Callable[[], dict[str, Any]]) -> int:
    """Do the work, print its result as the last line, and explain what can be explained."""
    try:
        result = work()
    except EchoDFKDError as error:
        return fail(error, code=1)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last published checkpoint", file=sys.stderr)
        return 130
    say(json.dumps(result))
    return 0 if result.get("ok", True) else 1


def say(line: str) -> None:
    """Print one line of progress without secrets."""
    print(redact(line), flush=True)


def fail(error: Exception, *, code: int) -> int:
    """Print one sentence on standard error."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    return code
