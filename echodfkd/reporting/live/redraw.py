"""Draw the overlays of a finished run again in one process, for another number of cases or for an older run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from echodfkd.config.file import config_from_dict
from echodfkd.config.sections.evaluate import EvaluateConfig
from echodfkd.core.errors import InputError
from echodfkd.evaluation.scored_models import load_students
from echodfkd.evaluation.scorer import run_scorer
from echodfkd.models.teachers.build import pick_device
from echodfkd.reporting.figures.overlays import DRAWN, case_overlay
from echodfkd.reporting.page.groups import cases_to_draw
from echodfkd.reporting.rows import read_rows
from echodfkd.storage.files import RunStorage


def redraw_overlays(storage: RunStorage, wanted: int, say: Callable[[str], None]) -> None:
    """Write the overlays of every student's ``wanted`` cases from worst to best, at the last checkpoint.

    Raises:
        InputError: the run has no checkpoint or no scores, or its data, teacher or weights cannot be read here.
        ConfigError: its config does not fit this version.
    """
    rows = read_rows(storage)
    chosen = cases_to_draw(rows, wanted)
    if not any(chosen.values()):
        raise InputError(f"{storage.root}: no case of a student has been scored, so there is none to draw")
    config = config_from_dict(rows.config)
    device = pick_device(config.teacher.device, "teacher.device")
    scorer = run_scorer(replace(config, evaluation=replace(config.evaluation, judge="none")), device)
    students, _ = load_students(EvaluateConfig(run=storage.root), device)
    names = []
    for student in students:
        for number in chosen.get(student.name, []):
            name, video = case_overlay(scorer, student, number)
            storage.write(name, video)
            names.append(name)
            say(f"{storage.root}/{name}")
    storage.write(DRAWN, json.dumps({"step": students[0].step if students else 0, "names": names}).encode())
