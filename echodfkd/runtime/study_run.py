"""A study: runs of one config, then their scores side by side.

One run per seed, in which all students share every batch. With ``study.teachers`` there is a run per teacher and seed,
with ``study.variants`` one per variant and seed, for options that students of one run must share, such as the source.
Cases stay paired if the variants do not change ``evaluation``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from echodfkd.config.run import RunConfig
from echodfkd.config.study import study_groups
from echodfkd.core.counter import Counter
from echodfkd.core.errors import RunError
from echodfkd.core.redaction import dump_json
from echodfkd.reporting.rows import read_rows
from echodfkd.reporting.study.study import build_study, students_markdown
from echodfkd.reporting.study.study_chart import study_chart
from echodfkd.reporting.study.teacher_study import build_teacher_study, teachers_markdown
from echodfkd.runtime.cluster.connection import connected, with_absolute_paths
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.runtime.progress import spoken
from echodfkd.storage.files import RunStorage


def run_study(config: RunConfig, print_line: Callable[[str], None]) -> dict[str, Any]:
    """Run (or resume) every distillation and write study.json, study.md and (of students) study.png.

    Returns:
        study.json's content, with ``root`` added: the folder it lies in.

    Raises:
        EchoDFKDError: one sentence; the same command resumes the study.
    """
    groups = study_groups(with_absolute_paths(config))
    runs = [(name or variant, run) for name, group in groups.items() for seed in group for variant, run in seed.items()]
    first: dict[str, str] = {}
    say = spoken(config, print_line)
    counter = Counter("runs", len(runs), say)
    with connected(config.ray):
        for number, (name, run) in enumerate(runs):
            what = f"{name}, seed {run.seed}".lstrip(", ")
            say(f"study {config.name}: run {number + 1} of {len(runs)}, {what}, ETA {counter.eta(number)}")
            like = first.setdefault(name, run.root)
            if stopped := run_distillation(run, print_line, like=like)["stopped"]:
                raise RunError(f"study {config.name}: {what} was {stopped}")
    read = {
        name: [{variant: read_rows(RunStorage(run.root)) for variant, run in seed.items()} for seed in group]
        for name, group in groups.items()
    }
    storage = RunStorage(with_absolute_paths(config).root)
    if config.study.teachers:
        study = build_teacher_study({name: [seed[""] for seed in group] for name, group in read.items()})
    else:
        study = build_study(read[""], baseline=config.study.baseline or config.compared[0])
        study["study"] = config.name
        storage.write("study.png", study_chart(study))
    storage.write("study.json", dump_json(study))
    storage.write("study.md", (study_table(study) + "\n").encode())
    return {**study, "root": storage.root}


def study_table(study: dict[str, Any]) -> str:
    """The study as a Markdown table."""
    return teachers_markdown(study) if "teachers" in study else students_markdown(study)
