"""Wait for the nodes that a run needs, and ask the cluster's autoscaler for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray.autoscaler.sdk import request_resources

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import RunError
from echodfkd.runtime.cluster.resources import Role, live_nodes, place, roles

LOOK_S = 2.0
"""Seconds between two checks of the cluster's nodes."""


@contextmanager
def nodes_for(config: RunConfig, print_line: Callable[[str], None]) -> Iterator[None]:
    """Enter the block once the cluster can hold all roles of the run at the same time.

    If they do not fit and `ray.wait_for_nodes_s` allows waiting, the autoscaler is asked for the run's minimum at once:
    otherwise it would add nodes for one role after the other, each of which waits for the next. Ray keeps one such
    request per cluster. Ray Data replaces it once the stream runs, and from then on the pools decide.

    Raises:
        RunError: the cluster cannot hold the run, or has not grown to hold it within that time.
    """
    missing = place(roles(config), live_nodes())
    if not missing:
        yield
        return
    wait_s = config.ray.wait_for_nodes_s
    if not wait_s:
        raise RunError("the cluster cannot hold this run: " + " | ".join(missing))
    wanted, selectors = bundles_of(roles(config))
    request_resources(bundles=wanted, bundle_label_selectors=selectors)
    try:
        print_line(f"waiting up to {wait_s:g} s for nodes: " + " | ".join(missing))
        started = time.monotonic()
        while missing:
            if time.monotonic() - started > wait_s:
                raise RunError(
                    "the cluster cannot hold this run, and has not grown enough within ray.wait_for_nodes_s"
                    f" ({wait_s:g} s): " + " | ".join(missing)
                )
            time.sleep(LOOK_S)
            missing = place(roles(config), live_nodes())
        print_line(f"the cluster holds every role after {time.monotonic() - started:.0f} s: {len(live_nodes())} nodes")
        yield
    finally:
        request_resources(bundles=[])


def bundles_of(wanted: list[Role]) -> tuple[list[dict[str, float]], list[dict[str, str]]]:
    """Resource bundles and node labels for the autoscaler; roles that reserve nothing are left out."""
    asked: list[dict[str, float]] = []
    labels: list[dict[str, str]] = []
    for role in wanted:
        bundle = {name: value for name, value in (("CPU", role.cpus), ("GPU", role.gpus)) if value}
        for _ in range(role.count if bundle else 0):
            asked.append(dict(bundle))
            labels.append(dict(role.labels))
    return asked, labels
