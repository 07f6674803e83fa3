"""What a resumed run has in common with the unbroken one: every bit in plan order, the ledger alone otherwise.

Engines, ZeRO stages and numbers of workers are crossed in `test_training_workers`; numbers of teachers in
`tests/runtime/test_distillation_run`.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from echodfkd.config.identity import keep_longer, open_run_folder
from echodfkd.config.run import RunConfig
from echodfkd.reporting.rows import RunRows, read_rows
from echodfkd.storage.checkpoints import read_resume
from echodfkd.storage.files import LAYOUT, RunStorage
from echodfkd.storage.intervals import Intervals
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import latest_checkpoint, list_checkpoints, read_consumed
from echodfkd.training.loop import WorkerContext, train
from tests.helpers.training import PAIR, TEACHER, make_batch, run_training, small_config


def rows_of(storage: RunStorage) -> RunRows:
    storage.write("config.yaml", b"name: run")
    return read_rows(storage)


def curve(storage: RunStorage) -> list[tuple[str, int, float, float, float]]:
    """(student, step, loss, learning rate, gradient norm), as the report reads them."""
    rows = rows_of(storage).training.to_pylist()
    return sorted((r["student"], r["step"], r["loss"], r["learning_rate"], r["grad_norm"]) for r in rows)


def same_state(one: RunStorage, other: RunStorage) -> bool:
    states = [read_resume(s, latest_checkpoint(s), name) for s in (one, other) for name in PAIR]
    half = len(states) // 2
    return all(
        torch.equal(tensor, getattr_of(theirs, kind)[name])
        for ours, theirs in zip(states[:half], states[half:], strict=True)
        for kind in ("weights", "exp_avg", "exp_avg_sq")
        for name, tensor in getattr_of(ours, kind).items()
    )


def getattr_of(state, kind: str) -> dict[str, torch.Tensor]:
    return state.weights if kind == "weights" else getattr(state.optimizer, kind)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> RunStorage:
    root = tmp_path_factory.mktemp("resume") / "unbroken"
    run_training(small_config(students=PAIR), root)
    return RunStorage(str(root))


@pytest.mark.parametrize("deaths", ["between updates", "before the manifest", "many"])
def test_loss_curve_and_state_equal_the_unbroken_runs_bit_for_bit(unbroken, tmp_path: Path, deaths: str) -> None:
    """With ``data.order: fixed``, whenever the run died, and even where it died after its log rows were written."""
    config = small_config(students=PAIR)
    storage = RunStorage(str(tmp_path / "run"))
    if deaths != "before the manifest":
        run_training(config, storage.root, stop=7, attempt="died1")
    if deaths != "between updates":
        run_training(config, storage.root, attempt="died2")
        storage.fs.rm_file(storage.path("checkpoints/step_00000010/manifest.json"))
    if deaths == "many":
        run_training(config, storage.root, stop=6, attempt="died3")
        storage.write("logs/training-step00000010-rank0-died4.parquet", b"")  # of a start that did not end its write
    assert run_training(config, storage.root, attempt="last")["start_step"] == 5
    assert same_state(storage, unbroken)
    assert curve(storage) == curve(unbroken)
    assert [key[:2] for key in curve(storage)] == [(name, step) for name in PAIR for step in range(1, 11)]
    report = check_ledger(storage, 40)
    assert (report.clips, report.lost, report.repeated, report.problems) == (40, 0, 0, [])


def arriving(config: RunConfig, storage: RunStorage, seed: int, *, stop: int | None = None) -> dict:
    """Train on what is left of the plan, in an order of the seed's; the stream may break off after ``stop`` steps."""
    newest = latest_checkpoint(storage)
    consumed = read_consumed(storage, newest) if newest else Intervals()
    left = np.random.default_rng(seed).permutation(list(consumed.complement(config.plan_slots)))
    batches = [make_batch([int(slot) for slot in part]) for part in np.split(left, len(left) // 4)]
    context = WorkerContext(0, 1, "cpu", "student0", f"seed{seed}", lambda values: None)
    try:
        return train(context, iter(batches[:stop]), config, storage, TEACHER)
    except RuntimeError as error:
        return {"error": str(error)}


def test_in_order_of_arrival_the_ledger_is_exact_and_nothing_else_is_promised(tmp_path: Path) -> None:
    """Another order gives other batches and so other weights: only what was trained, and how often, is the same."""
    config = small_config(students=PAIR)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, order="arrival"))
    storage = RunStorage(str(tmp_path / "run"))
    assert arriving(config, storage, 1, stop=7)["error"].startswith("the clip stream ended early")
    first = latest_checkpoint(storage)
    assert first is not None
    consumed = read_consumed(storage, first)
    assert (first.step, len(consumed)) == (5, 20)
    assert not consumed.is_prefix
    assert len(consumed.ranges) <= 20
    assert arriving(config, storage, 2)["start_step"] == 5
    report = check_ledger(storage, 40)
    assert (report.clips, report.lost, report.repeated, report.problems) == (40, 0, 0, [])
    assert read_consumed(storage, latest_checkpoint(storage)).ranges == ((0, 40),)
    assert [key[:2] for key in curve(storage)] == [(name, step) for name in PAIR for step in range(1, 11)]


def test_a_checkpoint_says_what_it_holds(unbroken: RunStorage) -> None:
    for commit in list_checkpoints(unbroken):
        assert commit.meta["loss_scale"].startswith("none: ")
        assert "training draws no random numbers" in commit.meta["rng"]
        assert set(commit.parts) == {*commit.ledger, *commit.quarantine}
        assert (commit.layout, commit.lease_epoch) == (LAYOUT, 0)
        assert read_resume(unbroken, commit, "a").optimizer.step == commit.step


def test_a_run_that_gets_longer_is_the_one_asked_for_at_the_start(tmp_path: Path) -> None:
    """With a constant rate: 4 steps, ended and published, then 10 of the same run, bit for bit."""

    def of(name: str, steps: int) -> RunConfig:
        constant = dataclasses.replace(small_config().optimizer, schedule="constant")
        config = small_config(students=PAIR, steps=steps, size=16)
        return dataclasses.replace(config, name=name, storage=str(tmp_path), optimizer=constant)

    for name, lengths in (("longer", (4, 10)), ("straight", (10,))):
        for steps in lengths:
            config = of(name, steps)
            keep_longer(open_run_folder(config, TEACHER), config)
            run_training(config, config.root, attempt=f"to{steps}")
    longer, straight = (RunStorage(str(tmp_path / name)) for name in ("longer", "straight"))
    assert same_state(longer, straight)
    assert [row[:4] for row in curve(longer)] == [row[:4] for row in curve(straight)]
