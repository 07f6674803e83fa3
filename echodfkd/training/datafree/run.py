"""Distil one student of a config without data, in one process, and write it as other commands read students."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError
from echodfkd.core.records import CHAMBER_NAMES, CLASS_NAMES
from echodfkd.core.redaction import dump_json
from echodfkd.models.generators.painted import write_painter
from echodfkd.models.students.build import build_student
from echodfkd.models.teachers.graded import graded_teacher
from echodfkd.sources.build import build_source
from echodfkd.storage.checkpoints import NETWORK_KEY, copy_to_cpu, pack_student
from echodfkd.training.conversion import write_files
from echodfkd.training.datafree.play import DataFreeRun, Drawn
from echodfkd.training.datafree.settings import KINDS, DataFreeSettings
from echodfkd.training.teacher.embedded import prepare_folder
from echodfkd.training.teacher.keeper import Keeper

_LV = CHAMBER_NAMES.index("LV")


def distil_without_data(
    config: RunConfig, shares: dict[str, float], out: str, folder: Path, *, report: Callable[[str], None]
) -> dict[str, Any]:
    """Train and write ``student.safetensors``, ``student.json`` and the painter's ``painter.safetensors``.

    Args:
        config: its one student, teacher, source (random conditions), window, train.steps, train.global_batch and seed.
        shares: of `DataFreeSettings`.
        out: the folder that is written to.
        folder: keeps the run, to go on after a stop.
        report: takes lines of progress.

    Returns:
        The content of student.json.

    Raises:
        ConfigError: the config asks for what this way cannot give.
        InputError: a file cannot be used, or no batch statistics guide.
        RunError: a loss is not finite.
    """
    student, settings = _only_student(config), _settings(config, shares)
    torch.manual_seed(config.seed)
    network = build_student(**student.network)
    prepare_folder(folder, "--resume")
    known = {**asdict(settings), "student": asdict(student), "teacher": config.teacher.kind}
    run = DataFreeRun(
        network,
        graded_teacher(config.teacher.kind, config.teacher.weights),
        _drawn(config),
        settings,
        keeper=Keeper(folder, known, every_seconds=60.0),
    )
    run.run(report)
    weights = {key: copy_to_cpu(value) for key, value in network.state_dict().items()}
    packed = pack_student(weights, {NETWORK_KEY: student.network})
    card = {
        "student": asdict(student),
        "step": settings.steps,
        "sha256": hashlib.sha256(packed).hexdigest(),
        "source": {"shares": shares, "seed": config.seed, "painter_updates": run.generator_step},
    }
    write_files(out, {"student.safetensors": packed, "student.json": dump_json(card)})
    write_painter(Path(out) / "painter.safetensors", run.painter)
    return card


def _settings(config: RunConfig, shares: dict[str, float]) -> DataFreeSettings:
    return DataFreeSettings(
        shares=shares,
        steps=config.train.steps,
        batch=config.train.global_batch,
        frames=config.window.frames,
        size=config.window.size,
        seed=config.seed,
        rate=config.optimizer.learning_rate,
    )


def read_shares(texts: Sequence[str]) -> dict[str, float]:
    """Shares from ``kind=share`` texts. Raises `ConfigError`."""
    found = {}
    for text in texts:
        kind, _, share = text.partition("=")
        try:
            found[kind] = float(share)
        except ValueError:
            raise ConfigError(f"--share: got {text}, expected KIND=SHARE; kinds are {', '.join(KINDS)}") from None
    return found


def _only_student(config: RunConfig) -> Any:
    if len(config.students) != 1:
        raise ConfigError(f"students: got {', '.join(config.students)}; training without data takes one")
    if config.taught_classes != CLASS_NAMES[1:] or config.taught_tasks:
        raise ConfigError(
            "students: training without data gives masks of the left ventricle only (classes LV, no tasks)"
        )
    return next(iter(config.students.values()))


def _drawn(config: RunConfig) -> Drawn:
    if config.source.kind != "phantom":
        raise ConfigError(f"source.kind: got {config.source.kind}, preset masks are those of the phantom")
    if config.window.frames < 1 or config.window.size % 8:
        raise ConfigError(f"window.size: got {config.window.size}, training without data needs a multiple of 8")
    source = build_source(config.source, config.window, seed=config.seed, case_frames=config.evaluation.frames)

    def drawn(slot: int) -> tuple[np.ndarray, np.ndarray]:
        clip = source.clip(slot)
        assert clip.truth_labels is not None
        return clip.video, clip.truth_labels == _LV

    return drawn
