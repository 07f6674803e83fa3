"""Every variant trains alike under plain torch and all of DeepSpeed's ZeRO stages, on two workers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from echodfkd.config.sections.student import StudentConfig
from echodfkd.storage.checkpoints import read_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import list_checkpoints
from tests.helpers.training import ENGINES, Workers, run_training, save_result, small_config

KINDS = ("convlstm", "convlstm_separable", "convgru", "mingru", "shift")
SKIPPED = {
    kind: StudentConfig(blocks=2, filters=8, norm="group", recurrence=kind, skips=True, activation="relu")
    for kind in KINDS
}
BOTH = {
    f"{kind}-both": StudentConfig(blocks=2, filters=8, norm="group", recurrence=kind, bidirectional=True)
    for kind in KINDS
}
STUDENTS = {**SKIPPED, **BOTH}


def train_all(rank: int, folder: str) -> None:
    """All students under every engine. Adam's eps is large, so that a gradient of mere rounding moves nothing."""
    for engine in ENGINES:
        config = small_config(engine=engine, workers=2, students=STUDENTS)
        optimizer = dataclasses.replace(config.optimizer, eps=1e-2)
        result = run_training(dataclasses.replace(config, optimizer=optimizer), f"{folder}/{engine}", rank=rank)
        save_result(folder, engine, rank, result.get("error", ""))


@pytest.mark.slow
def test_every_variant_trains_alike_under_every_engine(tmp_path: Path) -> None:
    """fp32, 1e-6: only the order of sums over workers differs; the weights move a thousand times as far."""
    workers = Workers(2)
    workers.run(train_all, tmp_path)
    workers.close()
    plain = RunStorage(str(tmp_path / "plain"))
    first, last = list_checkpoints(plain)
    for name in STUDENTS:
        wanted, earlier = read_student(plain, last, name), read_student(plain, first, name)
        assert max(float((wanted[key] - earlier[key]).abs().max()) for key in wanted) > 1e-3
        for engine in list(ENGINES)[1:]:
            storage = RunStorage(str(tmp_path / engine))
            found = read_student(storage, list_checkpoints(storage)[-1], name)
            assert found.keys() == wanted.keys()
            assert max(float((found[key] - wanted[key]).abs().max()) for key in wanted) < 1e-6, (engine, name)
