"""Students with heads in the loop: alone, in two processes, and under ZeRO, where outputs are tuples of tensors."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.core.records import DistillationBatch
from echodfkd.storage.checkpoints import read_resume, read_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint
from tests.helpers.training import FRAMES, Workers, run_training, small_config

HEADS = StudentConfig(blocks=2, layers=1, filters=3, norm="group", classes=["LV", "LA"], tasks=["phase", "ef"])
LV = StudentConfig(blocks=1, layers=1, filters=3, norm="batch")
FAMILY = {"lv": LV, "heads": HEADS}
ENGINES = ("plain", "zero1", "zero3")
TOLERANCE = 5e-6
"""As in test_training_workers: sums in another order, enlarged by Adam's division by sqrt(v)."""


def with_heads(batch: DistillationBatch) -> DistillationBatch:
    """The batch as a teacher of LV and LA makes it: phase and EF as functions of the slot, every third unknown."""
    rows = batch.slot.astype(np.float32)
    phase = (np.sin(rows[:, None] + np.arange(FRAMES)) + 1).astype(np.float32) / 2
    ef = (0.3 + 0.4 * (rows % 5) / 5).astype(np.float32)
    unknown = batch.slot % 3 == 0
    phase[unknown], ef[unknown] = np.nan, np.nan
    masks = np.concatenate([batch.teacher_prob, batch.teacher_prob[..., ::-1, :]], axis=2)
    return dataclasses.replace(batch, teacher_prob=masks, teacher_phase=phase, teacher_ef=ef)


def config_of(engine: str, **options: object) -> RunConfig:
    return small_config(engine=engine, students=FAMILY, **options)


def two_processes(rank: int, folder: str) -> None:
    for engine in ENGINES:
        config = config_of(engine, workers=2)
        result = run_training(config, f"{folder}/{engine}", rank=rank, change=with_heads, stop=7)
        Path(folder, f"cut-{engine}-{rank}.json").write_text(json.dumps(result))
        run_training(config, f"{folder}/{engine}", rank=rank, change=with_heads, attempt="second")


@pytest.fixture(scope="module")
def folder(two_workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes that train under every engine, are cut after seven steps, and resume from five."""
    folder = tmp_path_factory.mktemp("heads")
    two_workers.start(two_processes, folder)
    run_training(config_of("plain"), folder / "alone", change=with_heads)
    two_workers.join()
    return folder


def weights(root: Path, student: str) -> dict[str, torch.Tensor]:
    storage = RunStorage(str(root))
    newest = latest_checkpoint(storage)
    assert newest is not None
    assert newest.step == 10
    return read_student(storage, newest, student)


@pytest.mark.parametrize("student", list(FAMILY))
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_and_process_counts_agree_across_a_resume(folder: Path, engine: str, student: str) -> None:
    cut = json.loads(Path(folder, f"cut-{engine}-0.json").read_text())
    assert "ended early" in cut["error"]
    alone, found = weights(folder / "alone", student), weights(folder / engine, student)
    assert set(found) == set(alone)
    for name, value in alone.items():
        torch.testing.assert_close(found[name], value, atol=TOLERANCE, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


def test_heads_learn_and_their_moments_are_kept(folder: Path) -> None:
    storage = RunStorage(str(folder / "zero3"))
    newest = latest_checkpoint(storage)
    assert newest is not None
    state = read_resume(storage, newest, "heads")
    assert state.optimizer is not None
    for name in ("phase_head.weight", "ef_head.weight", "network.output_layer.layer.weight"):
        assert float(state.optimizer.exp_avg_sq[name].abs().sum()) > 0, name


def test_a_companion_with_heads_does_not_change_a_student(folder: Path, tmp_path: Path) -> None:
    """Bit for bit: the LV's student of the family, and one alone on a stream that teaches the LV and nothing else."""
    run_training(small_config(students={"lv": LV}), tmp_path / "run")
    together, alone = weights(folder / "alone", "lv"), weights(tmp_path / "run", "lv")
    assert all(torch.equal(together[name], alone[name]) for name in alone)


def test_a_stream_without_any_known_beat_still_trains(tmp_path: Path) -> None:
    def unknown(batch: DistillationBatch) -> DistillationBatch:
        batch = with_heads(batch)
        return dataclasses.replace(
            batch, teacher_phase=batch.teacher_phase * np.nan, teacher_ef=batch.teacher_ef * np.nan
        )

    result = run_training(config_of("plain", precision="bf16"), tmp_path / "run", change=unknown)
    assert np.isfinite(result["losses"]["heads"])
    assert weights(tmp_path / "run", "heads")["phase_head.weight"].isfinite().all()
