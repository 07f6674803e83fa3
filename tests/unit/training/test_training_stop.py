"""A run that is asked to stop publishes at its next update, stops on every worker, and goes on as if it had not.

One whose machine will be taken away publishes as well, and does not stop.
"""

from pathlib import Path

from echodfkd.config.run import RunConfig
from echodfkd.storage.checkpoints import read_resume
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import latest_checkpoint, list_checkpoints
from echodfkd.training.loop import WorkerContext, train
from tests.helpers.training import (
    TEACHER,
    Workers,
    first_step,
    load_results,
    plan_stream,
    run_training,
    save_result,
    small_config,
)

STOP_AT = 3
"""Updates that are done before the wish to stop is seen."""


def told_run(config: RunConfig, root: Path | str, what: str, rank: int = 0) -> dict[str, object]:
    """Train until rank 0, and no other, is told so once."""
    looks = iter(range(config.train.steps))
    told = {what: lambda: next(looks) == STOP_AT and rank == 0}
    storage = RunStorage(str(root))
    context = WorkerContext(rank, config.train.workers, "cpu", f"rank{rank}", "told", lambda values: None, **told)
    return train(context, plan_stream(config, rank, start=first_step(storage)), config, storage, TEACHER)


def bits(root: Path | str) -> dict[str, bytes]:
    storage = RunStorage(str(root))
    state = read_resume(storage, latest_checkpoint(storage), "a")
    parts = {"w": state.weights, "m": state.optimizer.exp_avg, "v": state.optimizer.exp_avg_sq}
    return {f"{part}/{name}": t.numpy().tobytes() for part, tensors in parts.items() for name, t in tensors.items()}


def test_it_publishes_between_two_checkpoints_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    config = small_config()
    run_training(config, tmp_path / "unbroken")
    result = told_run(config, tmp_path / "stopped", "stop_asked")
    assert (result["steps"], result["clips"]) == (STOP_AT + 1, 4 * (STOP_AT + 1))
    assert latest_checkpoint(RunStorage(str(tmp_path / "stopped"))).step == STOP_AT + 1
    again = run_training(config, tmp_path / "stopped", attempt="second")
    assert (again["start_step"], again["steps"]) == (STOP_AT + 1, 10)
    report = check_ledger(RunStorage(str(tmp_path / "stopped")), config.plan_slots)
    assert (report.lost, report.repeated, report.problems) == (0, 0, [])
    assert bits(tmp_path / "stopped") == bits(tmp_path / "unbroken")
    assert told_run(config, tmp_path / "left", "is_leaving")["steps"] == 10
    steps = [commit.step for commit in list_checkpoints(RunStorage(str(tmp_path / "left")))]
    assert steps == [STOP_AT + 1, 5, 10]
    assert bits(tmp_path / "left") == bits(tmp_path / "unbroken")


def scenario_two_workers(rank: int, folder: str) -> None:
    for what in ("stop_asked", "is_leaving"):
        result = told_run(small_config(workers=2), f"{folder}/{what}", what, rank)
        save_result(folder, what, rank, {"steps": result["steps"], "published": result["published"]})


def test_one_worker_is_told_and_all_publish_at_the_same_update(two_workers: Workers, tmp_path: Path) -> None:
    two_workers.run(scenario_two_workers, tmp_path)
    expected = {"steps": STOP_AT + 1, "published": f"checkpoints/step_{STOP_AT + 1:08d}"}
    assert load_results(tmp_path, "stop_asked") == [expected, expected]
    assert load_results(tmp_path, "is_leaving") == [{"steps": 10, "published": "checkpoints/step_00000010"}] * 2
    left = [commit.step for commit in list_checkpoints(RunStorage(f"{tmp_path}/is_leaving"))]
    assert left == [STOP_AT + 1, 5, 10]
