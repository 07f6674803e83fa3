"""Distil students from a teacher on a stream of clips: echodfkd distill --config configs/demo.yaml."""

import sys

from echodfkd.config.rules.jobs import needs_students
from echodfkd.config.run import RunConfig
from echodfkd.core.terminal import print_line, print_lines
from echodfkd.runtime.command import run_job


def work(config: RunConfig) -> dict[str, object]:
    """Run the distillation, print its scores and the path of its report."""
    from echodfkd.reporting.page.terminal import summary_lines
    from echodfkd.runtime.distillation_run import run_distillation

    summary = run_distillation(config, print_line)
    if summary["stopped"]:
        return {"ok": True, **summary}
    if not config.ray.json_lines:  # a program reads summary.json
        print_lines(["", *summary_lines(summary), "", f"report: {summary['report']}"])
    keys = ("run", "report", "ledger", "stopped")
    return {"ok": True, **{key: summary[key] for key in keys}}


if __name__ == "__main__":
    sys.exit(run_job(work, description=__doc__, check=needs_students))
