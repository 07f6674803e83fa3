"""Check within 20 seconds whether the cluster can hold a run: echodfkd preflight --config FILE."""

import sys

from echodfkd.config.rules.jobs import needs_students
from echodfkd.config.run import RunConfig
from echodfkd.core.terminal import print_line
from echodfkd.runtime.command import run_job


def work(config: RunConfig) -> dict[str, object]:
    """Check inputs, then the cluster."""
    from echodfkd.runtime.preflight_run import run_preflight

    return run_preflight(config, print_line)


if __name__ == "__main__":
    sys.exit(run_job(work, description=__doc__, check=needs_students))
