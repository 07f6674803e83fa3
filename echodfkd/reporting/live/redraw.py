"""Overlays of a run that is over, drawn again in one process: another number of cases, or an older run's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from echodfkd.config.file import config_from_dict
from echodfkd.core.errors import ClipError, InputError
from echodfkd.evaluation.heads import predict_with_teacher
from echodfkd.evaluation.models import load_students
from echodfkd.models.teachers.build import pick_device
from echodfkd.reporting.figures.overlays import DRAWN, overlay_mp4
from echodfkd.reporting.page.groups import cases_to_draw
from echodfkd.reporting.rows import read_rows
from echodfkd.sources.build import build_source
from echodfkd.storage.files import RunStorage
from echodfkd.teaching.build import build_configured_teacher


def redraw_overlays(storage: RunStorage, wanted: int, say: Callable[[str], None]) -> None:
    """Write the overlays of every student's ``wanted`` cases from worst to best, at the last checkpoint.

    Raises:
        InputError: the run has no checkpoint or no scores, or its data, teacher or weights cannot be read here.
        ConfigError: its config is none of this version.
    """
    rows = read_rows(storage)
    chosen = cases_to_draw(rows, wanted)
    if not any(chosen.values()):
        raise InputError(f"{storage.root}: no case of a student has been scored, so there is none to draw")
    config = config_from_dict(rows.config)
    config = replace(config, evaluate=replace(config.evaluate, run=storage.root, step=0))
    device = pick_device(config.teacher.device, "teacher.device")
    source = build_source(
        config.evaluation.source, config.window, seed=config.seed, case_frames=config.evaluation.frames
    )
    teacher = build_configured_teacher(config.teacher, device=device)
    networks, _, _ = load_students(config, device)
    names = []
    for network in networks:
        for number in chosen.get(network.name, []):
            case = source.case(number)
            mask = network.predict(case).lv_prob > config.evaluation.threshold
            try:
                taught = predict_with_teacher(teacher, case, classes=("LV",), tasks=())
            except ClipError:  # it has no mask of this case
                taught = None
            of_teacher = taught.lv_prob > config.evaluation.threshold if taught is not None else None
            name = f"overlays/{network.name}-{number:04d}.mp4"
            storage.write(name, overlay_mp4(case, mask, of_teacher))
            names.append(name)
            say(f"{storage.root}/{name}")
    storage.write(DRAWN, json.dumps({"step": networks[0].step if networks else 0, "names": names}).encode())
