"""Serve a teacher's masks and keep its weights: echodfkd serve-teacher --config configs/serve_teacher.yaml."""

import sys

from echodfkd.config.rules.jobs import needs_port
from echodfkd.config.run import RunConfig
from echodfkd.core.terminal import print_line
from echodfkd.runtime.command import run_job


def work(config: RunConfig) -> dict[str, object]:
    """Serve until SIGTERM or Ctrl-C."""
    from echodfkd.runtime.teacher_service import run_teacher_service

    return run_teacher_service(config, print_line)


if __name__ == "__main__":
    sys.exit(run_job(work, description=__doc__, check=needs_port))
