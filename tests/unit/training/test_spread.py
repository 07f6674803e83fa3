"""Students spread over two gloo processes, against one process and against replicas. One launch for all scenarios."""

import shutil

import pytest
import torch

from echodfkd.config.sections.student import StudentConfig
from echodfkd.storage.checkpoints import read_resume
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import latest_checkpoint
from echodfkd.training import loop as worker
from echodfkd.training.spread import assign_students
from echodfkd.training.step import NORM
from echodfkd.training.student_costs import StudentCost
from tests.helpers.training import (
    load_results,
    loss_curve,
    run_training,
    save_result,
    small_config,
    start_processes,
    training_rows,
)

STUDENTS = {
    "a": StudentConfig(blocks=1, layers=2, filters=3, norm="batch"),
    "b": StudentConfig(blocks=2, layers=1, filters=2, norm="batch"),
    "c": StudentConfig(blocks=2, layers=1, filters=3, norm="group"),
}
# Replicas merge the parts' means and squares (Chan et al. 1979) and add gradients of halves; spread students see the
# whole batch in one process. The sums run in another order: differences as between one and two replicas, see
# test_training_workers.
TOLERANCE = 5e-6
EARLY = {"early_stop_window": 2, "early_stop_patience": 1, "early_stop_min_delta": 0.02}


def config_of(workers: int, **options):
    return small_config(workers=workers, students=STUDENTS, **options)


def two_processes(rank: int, folder: str) -> None:
    for rounds in (1, 2):
        spread = config_of(2, placement="spread", accumulation=rounds)
        run_training(spread, f"{folder}/spread{rounds}", rank=rank)
        run_training(config_of(2, accumulation=rounds), f"{folder}/replicate{rounds}", rank=rank)
    spread = config_of(2, placement="spread")
    save_result(folder, "cut", rank, run_training(spread, f"{folder}/resumed", rank=rank, stop=7))
    run_training(spread, f"{folder}/resumed", rank=rank, attempt="second")
    run_training(spread, f"{folder}/from-one", rank=rank, attempt="second")
    run_training(config_of(2, placement="spread", **EARLY), f"{folder}/early", rank=rank)
    if rank == 1:
        accumulate = worker.accumulate_gradients
        worker.accumulate_gradients = lambda *own, step, **rest: overflow(accumulate(*own, step=step, **rest), step)
    save_result(folder, "overflow", rank, run_training(spread, f"{folder}/overflow", rank=rank))


def overflow(parts, step):
    if step == 2:
        parts[0, NORM] = torch.inf
    return parts


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spread")
    run_training(config_of(1), folder / "one1")
    shutil.copytree(folder / "one1", folder / "from-one")
    shutil.rmtree(folder / "from-one/checkpoints/step_00000010")
    launch = start_processes(two_processes, folder, 2)
    run_training(config_of(1, accumulation=2), folder / "one2")
    run_training(config_of(1, **EARLY), folder / "early-one")
    while not launch.join():
        pass
    return folder


def final(folder, name, student):
    storage = RunStorage(str(folder / name))
    commit = latest_checkpoint(storage)
    assert commit is not None
    assert commit.step == 10
    return read_resume(storage, commit, student)


def files(folder, name):
    commit = latest_checkpoint(RunStorage(str(folder / name)))
    assert commit is not None
    return {file: facts["sha256"] for file, facts in commit.files.items() if file != "meta.json"}


@pytest.mark.parametrize("rounds", [1, 2])
def test_spread_students_are_those_of_one_worker_bit_for_bit(runs, rounds):
    assert files(runs, f"spread{rounds}") == files(runs, f"one{rounds}")
    for student in STUDENTS:
        assert loss_curve(runs / f"spread{rounds}", student) == loss_curve(runs / f"one{rounds}", student)


@pytest.mark.parametrize("student", ["a", "c"])
@pytest.mark.parametrize("rounds", [1, 2])
def test_spread_students_are_near_replicas(runs, rounds, student):
    """Not b: its decoder's biases stand before a BatchNorm, which takes them away again. Their true gradient is zero,
    and Adam makes steps of full size out of the rounding that is left."""
    spread, replica = final(runs, f"spread{rounds}", student), final(runs, f"replicate{rounds}", student)
    for name, tensor in spread.weights.items():
        assert torch.allclose(tensor, replica.weights[name], rtol=0, atol=TOLERANCE), name


def test_each_worker_records_what_it_received_and_logs_what_it_trained(runs):
    storage = RunStorage(str(runs / "spread1"))
    report = check_ledger(storage, 40)
    assert (report.clips, report.lost, report.repeated, report.problems) == (40, 0, 0, [])
    rows = [row for part in storage.list("ledger") for row in storage.read_table(part).to_pylist()]
    assert {row["slot"] % 4 for row in rows if row["rank"] == 1} == {2, 3}
    logs = {part: storage.read_table(part).to_pylist() for part in storage.list("logs") if "/training-" in part}
    by_rank = [{row["student"] for part, log in logs.items() if f"rank{r}" in part for row in log} for r in (0, 1)]
    assert by_rank[0] | by_rank[1] == set(STUDENTS)
    assert not by_rank[0] & by_rank[1]
    assert len(training_rows(runs / "spread1")) == 10 * len(STUDENTS)


def test_a_cut_run_and_a_replica_s_checkpoint_go_on_spread(runs):
    assert all(result["error"].startswith("the clip stream ended early") for result in load_results(runs, "cut"))
    assert files(runs, "resumed") == files(runs, "one1") == files(runs, "from-one")


def test_one_worker_goes_on_from_a_spread_checkpoint(runs, tmp_path):
    shutil.copytree(runs / "spread1", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/step_00000010")
    assert run_training(config_of(1), tmp_path / "run", attempt="elsewhere")["start_step"] == 5
    assert files(tmp_path, "run") == files(runs, "one1")


def test_early_stopping_is_the_same_where_students_are_spread(runs):
    commits = [latest_checkpoint(RunStorage(str(runs / name))) for name in ("early", "early-one")]
    spread, one = (commit.meta["early_stopping"] for commit in commits)
    assert spread == one
    assert any(state["stopped_at"] for state in one.values())
    assert files(runs, "early") == files(runs, "early-one")


def test_what_one_worker_meets_in_its_own_student_stops_both(runs):
    first, second = load_results(runs, "overflow")
    assert first == second
    assert ": the gradients of step 3 overflow in their sum over the workers" in first["error"]


def test_the_longest_jobs_go_first_to_the_idlest_worker():
    def costs(**macs: int) -> dict[str, StudentCost]:
        return {name: StudentCost(1, 0, 0, value) for name, value in macs.items()}

    assert assign_students(costs(a=7, b=5, c=4, d=4, e=1), 2) == {"a": 0, "b": 1, "c": 1, "d": 0, "e": 1}
    assert assign_students(costs(a=1, b=1, c=1), 3) == {"a": 0, "b": 1, "c": 2}
    assert assign_students(costs(a=0, b=0), 2) == {"a": 0, "b": 1}
