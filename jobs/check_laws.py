"""Replay a steered run's laws and hold its ledger against them: echodfkd check-laws --config FILE (that of the run)."""

import sys

from echodfkd.config.rules.jobs import needs_steering
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import RunError
from echodfkd.core.terminal import print_line
from echodfkd.runtime.command import run_job


def work(config: RunConfig) -> dict[str, object]:
    """Replay; a fault fails the job."""
    from echodfkd.sources.steering.replay import replay
    from echodfkd.storage.files import RunStorage

    found = replay(config, RunStorage(config.root))
    for sentence in found.problems:
        print_line(sentence)
    if found.problems:
        raise RunError(f"{config.root}: {len(found.problems)} faults in {found.laws} laws and {found.clips} clips")
    return {"ok": True, "laws": found.laws, "clips": found.clips}


if __name__ == "__main__":
    sys.exit(run_job(work, description=__doc__, check=needs_steering))
