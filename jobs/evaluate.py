"""Score students, stored masks or a teacher, here or on a cluster: echodfkd evaluate evaluate.out=FOLDER"""

import sys

from echodfkd.config.evaluated import run_options
from echodfkd.config.rules.jobs import needs_models
from echodfkd.config.run import RunConfig
from echodfkd.core.terminal import print_line
from echodfkd.runtime.command import run_job


def work(config: RunConfig) -> dict[str, object]:
    """Score the cases; returns the folder of the rows."""
    if config.evaluate.actors:
        from echodfkd.runtime.evaluation_run import run_evaluation as evaluate
    else:
        from echodfkd.runtime.evaluation_run import evaluate

    summary = evaluate(config, print_line)
    return {"ok": True, "out": config.evaluate.out, "models": [*summary["students"], "teacher"]}


if __name__ == "__main__":
    sys.exit(run_job(work, description=__doc__, check=needs_models, below=run_options))
