"""The loop with two gloo processes under every engine. All scenarios share the two processes."""

import dataclasses
import math
import shutil

import pytest
import torch

from echodfkd.config.sections.training import OptimizerConfig, TrainConfig
from echodfkd.core.errors import RunError
from echodfkd.core.records import DistillationBatch
from echodfkd.storage.checkpoints import read_resume, read_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import latest_checkpoint, list_checkpoints
from tests.helpers.training import (
    ENGINES,
    FRAMES,
    GROUP_STUDENT,
    PAIR,
    Poisoned,
    Workers,
    load_results,
    make_batch,
    quarantine_one,
    run_training,
    save_result,
    small_config,
)

# Sums over clips are taken in another order on two processes: differences of about 1e-8 in the gradients, which
# Adam's division by sqrt(v) enlarges. Measured over all cases here: weights 4e-7, first moments 1.3e-8.
TOLERANCE = 5e-6
CROSSED = ("plain", "zero1", "zero2", "zero3")
RING = (("plain", "zero3"), ("zero3", "zero1"), ("zero1", "zero0"), ("zero0", "zero2"), ("zero2", "plain"))
"""Each engine and ZeRO stage once as the one that stops, and once as the one that goes on."""
EARLY = {"early_stop_window": 2, "early_stop_patience": 1, "early_stop_min_delta": 0.0525}
"""Of PAIR, b stops at step 6 and a at step 8, which ends the run."""


def two_processes(rank: int, folder: str) -> None:
    for engine in ENGINES:
        config = small_config(engine=engine, workers=2)
        run_training(config, f"{folder}/whole-{engine}", rank=rank)
        cut = run_training(config, f"{folder}/resumed-{engine}", rank=rank, stop=7)
        save_result(folder, f"cut-{engine}", rank, cut)
        run_training(config, f"{folder}/resumed-{engine}", rank=rank, attempt="second")
        for rounds in (1, 2):
            grouped = small_config(engine=engine, workers=2, students=GROUP_STUDENT, accumulation=rounds)
            run_training(grouped, f"{folder}/rounds{rounds}-{engine}", rank=rank)
        for where in ("loss", "gradient", *(["norm"] if engine in ("plain", "zero0") else [])):
            save_result(folder, f"poison-{where}-{engine}", rank, step_on_poison(engine, where, rank))
    for first, then in RING:  # from a checkpoint that the same two workers made at step 5 with another engine
        run_training(small_config(engine=first, workers=2), f"{folder}/{first}-to-{then}", rank=rank, stop=7)
        changed = small_config(engine=then, workers=2)
        run_training(changed, f"{folder}/{first}-to-{then}", rank=rank, attempt="second")
    for engine in CROSSED:  # from a checkpoint that one plain process made at step 5
        run_training(small_config(engine=engine, workers=2), f"{folder}/crossed-{engine}", rank=rank, attempt="second")
    for engine in ("plain", "zero1"):
        for name, students in (("pair", PAIR), ("only_b", {"b": PAIR["b"]})):
            run_training(
                small_config(engine=engine, workers=2, students=students), f"{folder}/{name}-{engine}", rank=rank
            )
    for engine in ("plain", "zero1", "zero3"):
        early = small_config(engine=engine, workers=2, students=PAIR, checkpoint_every=7, **EARLY)
        run_training(early, f"{folder}/early-{engine}", rank=rank)
        run_training(early, f"{folder}/early-cut-{engine}", rank=rank, stop=7)
        run_training(early, f"{folder}/early-cut-{engine}", rank=rank, attempt="second")
    stop_together(rank, folder)


def stop_together(rank: int, folder: str) -> None:
    """What only rank 1 sees must stop both, with one sentence."""

    def on_rank_1(change):
        return change if rank == 1 else None

    def at_slot(slot: int, **fields):
        return on_rank_1(lambda b: dataclasses.replace(b, **fields) if slot in b.slot else b)

    def shift(batch: DistillationBatch) -> DistillationBatch:
        return dataclasses.replace(batch, slot=batch.slot + 4) if 10 in batch.slot else batch

    config = small_config(workers=2)
    weight = make_batch([0, 1]).sample_weight * math.nan
    cases = {
        "fault": {"change": at_slot(10, fault="clip 10 cannot be made")},
        "short": {"stop": 3 if rank == 1 else None},
        "misplaced": {"change": on_rank_1(shift)},
        "quarantine": {"change": on_rank_1(quarantine_one)},
        "weight": {"change": at_slot(10, sample_weight=weight)},
    }
    for name, options in cases.items():
        save_result(folder, f"stop-{name}", rank, run_training(config, f"{folder}/stop-{name}", rank=rank, **options))


def step_on_poison(engine: str, where: str, rank: int) -> dict:
    """Two good steps, then one where rank 1 alone meets a number that is not finite."""
    from echodfkd.training.collectives import sum_over_workers
    from echodfkd.training.engine import EngineSettings
    from echodfkd.training.objective import Totals
    from echodfkd.training.step import accumulate_gradients, check_finite, update
    from echodfkd.training.student import GradientWatch, Student, build_engine

    kind, stage = ENGINES[engine]
    device = torch.device("cpu")
    torch.manual_seed(0)
    module = Poisoned(where)
    watch = GradientWatch(module, device)
    train = TrainConfig(engine=kind, zero_stage=stage)
    built = build_engine(module, EngineSettings(OptimizerConfig(), train, micro_batch=2, device=device))
    students = [Student("fragile", built, watch)]
    before: dict[str, torch.Tensor] = {}
    for step in (1, 2, 3):
        batch = make_batch([4 * step + 2 * rank, 4 * step + 2 * rank + 1])
        if step == 3 and rank == 1:
            video = batch.video.copy()
            video[0, 0, 0, 0] = 255
            batch = dataclasses.replace(batch, video=video)
        parts = accumulate_gradients(students, [batch], totals=Totals(4.0), step=step - 1, device=device)
        try:
            check_finite({"fragile": sum_over_workers(parts.flatten())}, step)
        except RunError as error:
            after = built.weights()
            return {"error": str(error), "same": all(torch.equal(before[k], after[k]) for k in before)}
        start = built.weights()
        update(students, 0.01, step)
        before = built.weights()
        if all(torch.equal(start[k], before[k]) for k in start):
            return {"error": "a good step changed nothing", "same": False}
    return {"error": "", "same": False}


def one_process(rank: int, folder: str) -> None:
    """No process group exists here: DeepSpeed gets one of its own."""
    for stage in (1, 3):
        run_training(small_config(engine=f"zero{stage}"), f"{folder}/alone-zero{stage}", rank=rank)
    for precision in ("bf16", "fp32"):
        result = run_training(
            small_config(engine="zero0", students=GROUP_STUDENT, precision=precision),
            f"{folder}/{precision}",
            rank=rank,
        )
        save_result(folder, precision, rank, result["losses"])


@pytest.fixture(scope="module")
def runs(two_workers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run_training(small_config(), folder / "whole-one")
    for engine in CROSSED:
        shutil.copytree(folder / "whole-one", folder / f"crossed-{engine}")
        shutil.rmtree(folder / f"crossed-{engine}/checkpoints/step_00000010")
    two_workers.start(two_processes, folder)
    alone = Workers(1)
    alone.start(one_process, folder)
    run_training(small_config(students=GROUP_STUDENT), folder / "rounds1-one")
    alone.join()
    alone.close()
    two_workers.join()
    return folder


def final(folder, name, student="a"):
    storage = RunStorage(str(folder / name))
    commit = latest_checkpoint(storage)
    assert commit is not None
    assert commit.step == 10
    return read_resume(storage, commit, student)


def largest_difference(ours, theirs):
    assert ours.keys() == theirs.keys()
    return max(float((ours[k].double() - theirs[k].double()).abs().max()) for k in ours)


def assert_same_bits(ours, theirs):
    assert ours.optimizer.step == theirs.optimizer.step
    for a, b in (
        (ours.weights, theirs.weights),
        (ours.optimizer.exp_avg, theirs.optimizer.exp_avg),
        (ours.optimizer.exp_avg_sq, theirs.optimizer.exp_avg_sq),
    ):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", [*(f"whole-{engine}" for engine in ENGINES), "alone-zero1", "alone-zero3"])
def test_every_engine_matches_one_plain_process_on_the_whole_batch(runs, name):
    one, other = final(runs, "whole-one"), final(runs, name)
    assert largest_difference(one.weights, other.weights) < TOLERANCE
    assert largest_difference(one.optimizer.exp_avg, other.optimizer.exp_avg) < TOLERANCE
    assert one.optimizer.step == other.optimizer.step == 10


def test_training_moves_weights_far_beyond_the_tolerance(runs):
    first = read_student(
        RunStorage(str(runs / "whole-one")), list_checkpoints(RunStorage(str(runs / "whole-one")))[0], "a"
    )
    assert largest_difference(first, final(runs, "whole-one").weights) > 100 * TOLERANCE


def test_log_rows_agree_and_the_norm_is_clipped_in_the_runs_compared(runs):
    logs = {}
    for name in ("whole-one", *(f"whole-{engine}" for engine in ENGINES)):
        storage = RunStorage(str(runs / name))
        parts = [part for part in storage.list("logs") if "/training-" in part]
        logs[name] = [row for part in parts for row in storage.read_table(part).to_pylist()]
        assert [row["step"] for row in logs[name]] == list(range(1, 11))
    one = logs.pop("whole-one")
    norms = [row["grad_norm"] for row in one]
    assert max(norms) > 0.2 > min(norms) > 0  # clip_norm is 0.2: both branches of the clipping ran
    for rows in logs.values():
        for key in ("loss", "grad_norm", "learning_rate"):
            assert [row[key] for row in rows] == pytest.approx([row[key] for row in one], abs=TOLERANCE)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_rounds_of_accumulation_equal_one(runs, engine):
    one = final(runs, "rounds1-one").weights
    assert largest_difference(one, final(runs, f"rounds1-{engine}").weights) < TOLERANCE
    assert largest_difference(one, final(runs, f"rounds2-{engine}").weights) < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(runs, engine):
    for rank, result in enumerate(load_results(runs, f"cut-{engine}")):
        assert result["error"].startswith(
            "the clip stream ended early: worker 0 got 0 of 1 micro-batches for step 8"
        ), rank
    assert_same_bits(final(runs, f"whole-{engine}"), final(runs, f"resumed-{engine}"))
    report = check_ledger(RunStorage(str(runs / f"resumed-{engine}")), 40)
    assert (report.clips, report.lost, report.repeated, report.problems) == (40, 0, 0, [])


@pytest.mark.parametrize("engine", ["plain", "zero1", "zero3"])
def test_one_process_goes_on_from_a_checkpoint_of_two(runs, tmp_path, engine):
    shutil.copytree(runs / f"whole-{engine}", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/step_00000010")
    result = run_training(small_config(), tmp_path / "run", attempt="elsewhere")
    assert result["start_step"] == 5
    assert largest_difference(final(runs, "whole-one").weights, final(tmp_path, "run").weights) < TOLERANCE


@pytest.mark.parametrize("engine", CROSSED)
def test_two_processes_go_on_from_a_checkpoint_of_one(runs, engine):
    one, crossed = final(runs, "whole-one"), final(runs, f"crossed-{engine}")
    assert largest_difference(one.weights, crossed.weights) < TOLERANCE
    assert largest_difference(one.optimizer.exp_avg_sq, crossed.optimizer.exp_avg_sq) < TOLERANCE
    assert check_ledger(RunStorage(str(runs / f"crossed-{engine}")), 40).problems == []


@pytest.mark.parametrize(("first", "then"), RING)
def test_a_run_goes_on_with_another_engine_or_zero_stage(runs, first, then):
    """Each is held against the unbroken run of its second engine: only the state at step 5 came from the other."""
    unbroken, changed = final(runs, f"whole-{then}"), final(runs, f"{first}-to-{then}")
    assert changed.optimizer.step == 10
    assert largest_difference(unbroken.weights, changed.weights) < TOLERANCE
    assert largest_difference(unbroken.optimizer.exp_avg, changed.optimizer.exp_avg) < TOLERANCE
    assert check_ledger(RunStorage(str(runs / f"{first}-to-{then}")), 40).problems == []


@pytest.mark.parametrize("engine", ["plain", "zero1"])
def test_two_students_in_one_loop_equal_each_alone_bit_for_bit(runs, engine):
    assert_same_bits(final(runs, f"pair-{engine}", "a"), final(runs, f"whole-{engine}", "a"))
    assert_same_bits(final(runs, f"pair-{engine}", "b"), final(runs, f"only_b-{engine}", "b"))


@pytest.mark.parametrize("engine", ["plain", "zero1", "zero3"])
def test_a_stopped_student_holds_up_no_other_and_survives_a_restart_bit_for_bit(runs, engine):
    """The cut at step 7 lies after b's stop and inside the window that stops a."""
    whole, cut = (latest_checkpoint(RunStorage(str(runs / f"early-{kind}{engine}"))) for kind in ("", "cut-"))
    assert whole is not None
    assert cut is not None
    assert (whole.step, whole.stopped_at("a"), whole.stopped_at("b"), whole.ended) == (8, 8, 6, True)
    assert whole.meta["early_stopping"] == cut.meta["early_stopping"]
    assert {**whole.files, "meta.json": {}} == {**cut.files, "meta.json": {}}
    for kind in ("", "cut-"):
        report = check_ledger(RunStorage(str(runs / f"early-{kind}{engine}")), 40)
        assert (report.clips, report.lost, report.problems) == (32, 0, [])


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_number_that_is_not_finite_on_one_rank_stops_both_before_the_update(runs, engine, where):
    for result in load_results(runs, f"poison-{where}-{engine}"):
        assert result["error"].startswith(f"student fragile: the {where} of step 3 is not finite")
        assert result["same"]


@pytest.mark.parametrize("engine", ["plain", "zero0"])
def test_finite_gradients_whose_sum_overflows_stop_both_before_the_update(runs, engine):
    for result in load_results(runs, f"poison-norm-{engine}"):
        assert result["error"].startswith("student fragile: the gradients of step 3 overflow in their sum")
        assert result["same"]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("fault", "clip 10 cannot be made"),
        ("short", "the clip stream ended early: worker 1 got 0 of 1 micro-batches for step 4 of 10 (plan: 40 clips)"),
        (
            "misplaced",
            "data.order is fixed, but the clip stream sent slot 14 at step 3, which trains on the slots 8 to 11",
        ),
        ("quarantine", "5 indices are quarantined, more than data.quarantine_limit (0.1) of the plan's 40 clips"),
        ("weight", "the sample weights of step 3 sum to nan, must be above 0"),
    ],
)
def test_what_one_rank_sees_stops_both_with_the_same_sentence(runs, case, words):
    first, second = load_results(runs, f"stop-{case}")
    assert first == second
    assert words in first["error"]


def test_quarantined_rows_are_written_before_the_run_stops(runs):
    storage = RunStorage(str(runs / "stop-quarantine"))
    rows = [row for part in storage.list("quarantine") for row in storage.read_table(part).to_pylist()]
    assert [row["slot"] for row in rows] == [2, 6, 10, 14, 18]
    assert rows[0]["reason"] == "clip 2 is torn"


def test_bf16_stays_near_fp32(runs):
    bf16, fp32 = load_results(runs, "bf16", 1)[0], load_results(runs, "fp32", 1)[0]
    assert bf16["a"] != fp32["a"]  # autocast reached the student inside DeepSpeed
    assert bf16["a"] == pytest.approx(fp32["a"], rel=0.02)  # bfloat16 keeps 8 bits: 0.4 % a product


def test_students_span_counts_every_clip_and_frame(runs):
    storage = RunStorage(str(runs / "whole-zero1"))
    spans = [row for part in storage.list("logs") if "/spans-" in part for row in storage.read_table(part).to_pylist()]
    assert {row["actor"] for row in spans} == {"students-rank0", "students-rank1"}
    assert sum(row["clips"] for row in spans) == 40
    assert sum(row["frames"] for row in spans) == 40 * FRAMES
    assert all(row["end"] > row["start"] for row in spans)
