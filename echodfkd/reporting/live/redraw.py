"""Draw the overlays of a finished run again in one process, for another number of cases or for an older run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from echodfkd.config.file import config_from_dict
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.evaluate import EvaluateConfig
from echodfkd.config.stored import CONFIG, check_harmless
from echodfkd.core.counter import Counter
from echodfkd.core.errors import InputError
from echodfkd.evaluation.scored_models import load_students
from echodfkd.evaluation.scorer import run_scorer
from echodfkd.models.teachers.build import pick_device
from echodfkd.reporting.figures.overlays import case_overlay
from echodfkd.reporting.page.groups import cases_to_draw
from echodfkd.reporting.rows import DRAWN, read_rows
from echodfkd.storage.files import RunStorage


def redraw_overlays(storage: RunStorage, wanted: int, say: Callable[[str], None], own: RunConfig | None = None) -> None:
    """Write the overlays of every student's ``wanted`` cases from worst to best, at the last checkpoint.

    Args:
        storage: the run folder.
        wanted: number of cases.
        say: takes the name of every video.
        own: the user's config of the run; None takes that of the folder, if it names no file and no host.

    Raises:
        InputError: the run has no checkpoint or no scores, its data, teacher or weights cannot be read here, the
            folder's config reaches out, or the user's is of another run.
        ConfigError: its config does not fit this version.
    """
    rows = read_rows(storage)
    chosen = cases_to_draw(rows, wanted)
    if not any(chosen.values()):
        raise InputError(f"{storage.root}: no case of a student has been scored, so there is none to draw")
    config = own or harmless_config(rows.config, f"{storage.root}/{CONFIG}")
    device = pick_device(config.teacher.device, "teacher.device")
    scorer = run_scorer(replace(config, evaluation=replace(config.evaluation, judge="none")), device)
    students, _ = load_students(EvaluateConfig(run=storage.root), device)
    clips = dict(zip(rows.cases["index"].to_pylist(), rows.cases["clip_id"].to_pylist(), strict=True))
    names = []
    drawn = [(student, number) for student in students for number in chosen.get(student.name, [])]
    with Counter("videos", len(drawn), say) as counter:
        for student, number in drawn:
            if (known := clips.get(number)) != (found := scorer.prepare(number).case.clip_id):
                raise InputError(f"--config: its case {number} is {found}, but that of {storage.root} is {known}")
            name, video = case_overlay(scorer, student, number)
            storage.write(name, video)
            names.append(name)
            say(f"{storage.root}/{name}")
            counter.show(len(names))
    storage.write(DRAWN, json.dumps({"step": students[0].step if students else 0, "names": names}).encode())


def harmless_config(values: dict[str, Any], where: str) -> RunConfig:
    """The part of a run folder's config that the overlays need. Raises `InputError` if it reaches out."""
    config = config_from_dict(values)
    used = RunConfig(
        seed=config.seed,
        window=config.window,
        students=config.students,
        teacher=replace(config.teacher, cache=""),
        evaluation=replace(config.evaluation, judge="none", judge_weights="", judge_captions=""),
    )
    remedy = f"if you trust it, add --config FILE to the command (a file of your own, or {where} once you have read it)"
    for name in ("window", "teacher", "evaluation"):
        check_harmless(getattr(used, name), name, where=where, remedy=remedy)
    return used
