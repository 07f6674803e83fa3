"""Compare students, or teachers and their students, over several seeds (docs/explanation/student-study.md).

echodfkd study --config configs/study.yaml             (--list: sizes and costs of its students)
echodfkd study --config configs/limited_teachers.yaml
"""

import sys

from echodfkd.config.run import RunConfig
from echodfkd.config.study import study_groups
from echodfkd.core.terminal import print_line, print_lines
from echodfkd.runtime.command import run_job


def work(config: RunConfig) -> dict[str, object]:
    """Run every seed that has no rows yet, print the table and the paths of study.json and study.md."""
    from echodfkd.runtime.study_run import run_study, study_table

    study = run_study(config, print_line)
    if study["stopped"]:
        return study
    if not config.ray.json_lines:  # a program reads study.json
        print_lines(["", *study_table(study).split("\n"), "", f"study: {study['root']}/study.json, study.md"])
    return {"ok": True, "study": study["study"], "seeds": study["seeds"], "root": study["root"]}


def show(config: RunConfig) -> dict[str, object]:
    """Print sizes and costs of the config's students, without training."""
    from echodfkd.reporting.study.study import cost_table

    print_lines(cost_table({name: vars(student) for name, student in config.students.items()}).split("\n"))
    return {"ok": True, "students": list(config.students)}


if __name__ == "__main__":
    other = {"list": ("print sizes and costs of its students, and stop", show)}
    sys.exit(run_job(work, description=__doc__, check=study_groups, other_work=other))
