"""Compare students, or teachers and their students, over several seeds (docs/explanation/student-study.md).

python jobs/study.py --config configs/study.yaml             (--list: sizes and costs of its students)
python jobs/study.py --config configs/limited_teachers.yaml
"""

import sys

from echodfkd.config.run import RunConfig
from echodfkd.config.study import study_groups
from echodfkd.core.terminal import print_line, print_lines
from echodfkd.runtime.command import run_job


def work(config: RunConfig) -> dict[str, object]:
    """Run every seed, print the table and the paths of study.json and study.md."""
    from echodfkd.runtime.study_run import run_study, study_table

    study = run_study(config, print_line)
    print_lines(["", *study_table(study).split("\n"), "", f"study: {study['root']}/study.json, study.md"])
    return {"ok": True, "study": study["study"], "seeds": study["seeds"], "root": study["root"]}


def show(config: RunConfig) -> dict[str, object]:
    """Print sizes and costs of the config's students, without training."""
    from echodfkd.reporting.study.study import cost_table

    print_lines(cost_table({name: vars(student) for name, student in config.students.items()}).split("\n"))
    return {"ok": True, "students": list(config.students)}


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--list"]
    sys.exit(
        run_job(show if "--list" in sys.argv else work, description=__doc__, arguments=arguments, check=study_groups)
    )
