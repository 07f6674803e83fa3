"""A steered run of the training loop, without Ray: laws in the checkpoints, the ledger, kills and resumes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from echodfkd.config.file import load_config
from echodfkd.config.identity import keep_longer, open_run_folder
from echodfkd.config.rules.jobs import needs_steering
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError, InputError, RunError
from echodfkd.core.records import DistillationBatch, PublishedCheckpoint
from echodfkd.losses.regions import soft_dice
from echodfkd.losses.shape import temporal_distance
from echodfkd.models.judges.build import load_judge
from echodfkd.models.judges.embedded import read_towers
from echodfkd.models.judges.protocol import MaskJudge
from echodfkd.models.students.output import StudentOutput
from echodfkd.runtime.stream.builders import training_source
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.sources.steering import plan as plan_module
from echodfkd.sources.steering import replay as replay_module
from echodfkd.sources.steering.laws import Timetable
from echodfkd.sources.steering.plan import SteeringPlan
from echodfkd.sources.steering.replay import Replay, replay
from echodfkd.storage.checkpoints import read_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import latest_checkpoint, list_checkpoints
from echodfkd.storage.steering import UNIT, SteeringState, read_laws, read_steering
from echodfkd.training.loop import WorkerContext, train
from echodfkd.training.objective import LV_OBJECTIVE, Objective, batch_tensors
from echodfkd.training.signals import JudgeShortfall, Signal, disagreement, temporal
from echodfkd.training.steering import Steering
from jobs import check_laws
from tests.helpers.teachers import taught_batch
from tests.helpers.training import Workers, first_step, load_results, make_batch, save_result

RUN = [
    "students.a.blocks=1", "students.a.layers=1", "students.a.filters=2", "window.size=16", "window.frames=2",
    "train.steps=12", "train.global_batch=4", "train.checkpoint_every=3", "train.engine=plain", "source.domain=clear",
    "source.steering.strata={ef_percent: [50], image_quality: [0.5]}", "source.steering.floor=0.3",
    "source.steering.again=0.25", "optimizer.schedule=constant",
]  # fmt: skip


@pytest.fixture(autouse=True)
def few_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "COUNTED", 400)


def batches(config: RunConfig, start: int, stop: int, seen: list[str]) -> Iterator[DistillationBatch]:
    """The clips of the run's own source, drawn when they are asked for as a stream's tasks are."""
    source = training_source(config)
    for step in range(start, min(stop, config.train.steps)):
        slots = list(range(step * 4, step * 4 + 4))
        clips = [source.clip(slot) for slot in slots]
        seen += [clip.clip_id for clip in clips]
        yield taught_batch(clips, slots)


def run(config: RunConfig, *, attempt: str, stop: int = 12, ask: int = 99) -> list[str]:
    """Train until the stream ends at ``stop`` (a killed run), or ask it to stop in step ``ask`` (SIGTERM)."""
    storage = open_run_folder(config, "t")
    keep_longer(storage, config)
    seen: list[str] = []
    start = first_step(storage)
    steps = iter(range(start, 99))
    context = WorkerContext(0, 1, "cpu", "w", attempt, lambda values: None, stop_asked=lambda: next(steps) == ask)
    with pytest.raises(RunError, match="ended early") if stop < 12 else contextlib.nullcontext():
        train(context, batches(config, start, stop, seen), config, storage, "t")
    return seen


def config_in(folder: Path | str, *options: str) -> RunConfig:
    return load_config(None, [*RUN, f"storage={folder}", *options])


def facts(config: RunConfig) -> tuple[object, ...]:
    """All that a resumed run must have in common with a whole one."""
    storage = RunStorage(config.root)
    commits = {commit.step: commit for commit in list_checkpoints(storage)}
    rows = [row for c in commits.values() for part in c.ledger for row in storage.read_table(part).to_pylist()]
    known = [
        {key: row[key] for key in ("slot", "clip_id", "stratum", "comes_back")}
        for row in sorted(rows, key=lambda r: r["slot"])
    ]
    weights = {name: tensor.tolist() for name, tensor in read_student(storage, commits[12], "a").items()}
    return known, weights, read_steering(storage, commits[12])


def test_a_run_follows_its_laws_and_a_killed_and_resumed_one_has_the_same_clips_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = config_in(tmp_path / "whole")
    seen = run(whole, attempt="one")
    cut = config_in(tmp_path / "cut")
    run(cut, attempt="one", stop=5)  # dies after step 5: the checkpoint of step 3 counts
    run(cut, attempt="two", ask=7)  # publishes outside the timetable, after step 8
    assert [commit.step for commit in list_checkpoints(RunStorage(cut.root))] == [3, 6, 8]
    run(cut, attempt="three")
    longer = config_in(tmp_path / "longer", "train.steps=6")
    run(longer, attempt="one")
    longer = config_in(tmp_path / "longer")
    run(longer, attempt="two")
    known, weights, state = facts(whole)
    assert facts(longer) == (known, weights, state)
    assert facts(cut) == (known, weights, state)
    assert state is not None
    assert [law.step for law in state.laws] == [0, 3, 6, 9, 12, 15]  # type: ignore[attr-defined]
    assert [bool(law.towards) for law in state.laws] == [False, False, True, True, True, True]  # type: ignore[attr-defined]
    assert [row["clip_id"] for row in known] == seen  # type: ignore[attr-defined,index]
    report = check_ledger(RunStorage(whole.root), whole.plan_slots)
    assert (report.clips, report.lost, report.repeated, report.problems) == (48, 0, 0, [])
    back = [row["clip_id"] for row in known if row["comes_back"]]  # type: ignore[attr-defined,index]
    assert back
    fresh = [row["clip_id"] for row in known if not row["comes_back"]]  # type: ignore[attr-defined,index]
    assert len(set(fresh)) == len(fresh) == 48 - len(back)
    assert set(back) <= set(fresh)
    for config in (whole, cut):
        assert replay(config, RunStorage(config.root)) == Replay(laws=6, clips=48, problems=[])
    assert check_laws.work(whole) == {"ok": True, "laws": 6, "clips": 48}
    check_replay_finds_forgeries(whole, monkeypatch)


def check_replay_finds_forgeries(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each forged law of the last checkpoint is found, and so is a ledger of other clips."""

    def said(**changes: object) -> str:
        def forged(storage: RunStorage, commit: PublishedCheckpoint, strata: int) -> SteeringState:
            state = read_laws(storage, commit, strata)
            return dataclasses.replace(state, laws=(*state.laws[:-1], dataclasses.replace(state.laws[-1], **changes)))  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(replay_module, "read_laws", forged)
            return " ".join(replay(config, RunStorage(config.root)).problems)

    last = read_steering(RunStorage(config.root), list_checkpoints(RunStorage(config.root))[-1])
    assert last is not None
    law = last.laws[-1]
    assert "law 5 (from step 15) does not follow" in said(towards=law.towards[::-1])
    assert "law 5 (from step 15) does not follow" in said(loss=(0.9, *law.loss[1:]))
    assert "law 5 counts other clips than the ledger has after step 9 up to step 12" in said(clips=(99, *law.clips[1:]))
    assert "law 5 brings back clips that were not trained" in said(again=((999, 0, 1),))
    other = dataclasses.replace(config, seed=config.seed + 1)
    with pytest.raises(RunError, match=r"2\d faults in 6 laws and 48 clips"):
        check_laws.work(other)
    with pytest.raises(ConfigError, match="there are no laws to replay"):
        needs_steering(load_config(None, RUN[:10]))


def test_clips_of_another_law_stop_the_run(tmp_path: Path) -> None:
    config = config_in(tmp_path, "source.steering.curriculum=[{step: 0, shares: {ef_percent: [1, 0]}}]")

    def of_one_stratum() -> Iterator[DistillationBatch]:
        for batch in batches(config, 0, 12, []):
            yield dataclasses.replace(batch, stratum=("ef_percent >= 50, image_quality < 0.5",) * 4)

    context = WorkerContext(0, 1, "cpu", "w", "one", lambda values: None)
    with pytest.raises(RunError, match=r"its law asks for ef_percent < 50, image_quality .* laws of another run"):
        train(context, of_one_stratum(), config, RunStorage(config.root), "t")


def test_the_loss_of_a_stratum_is_the_mean_distance_of_its_clips(tmp_path: Path) -> None:
    config = config_in(tmp_path, "train.checkpoint_every=4", "source.steering.every=3")
    plan = SteeringPlan(config.source, config.seed)
    distances = [[0.1, 0.2, 0.3, 0.4], [0.3, 0.2, 0.1, 0.8], [0.5] * 4, [0.7] * 4]  # of two students, by batch
    steering = Steering(plan, Timetable.of(config), given(distances))
    batches = [in_strata(plan, [0, 1, 2, 3]), in_strata(plan, [4, 5, 6, 7])]
    back = add(steering, batches, students=2)
    assert back == [[False] * 4] * 2
    steering.close(4)
    wanted: dict[str, list[float]] = {}
    names = [*batches[0].stratum, *batches[1].stratum]
    for name, value in zip(names, [0.2, 0.2, 0.2, 0.6, 0.6, 0.6, 0.6, 0.6], strict=True):
        wanted.setdefault(name, []).append(value)
    window = steering.state.window
    for stratum, (total, count) in enumerate(zip(window.sums, window.clips, strict=True)):
        values = wanted.get(plan.name(stratum), [])
        assert count == len(values)
        assert total / UNIT == pytest.approx(sum(values), abs=1e-5)
    hardest = sorted((-0.6, i) for i in range(3, 8))
    assert [index for _, index in window.hard] == [i for _, i in hardest] + [0, 1, 2][: len(window.hard) - 5]
    assert len(steering.state.laws) == 1


def given(values: Sequence[Sequence[float]]) -> Signal:
    """A signal of these values, one row a call."""
    rows = iter(values)
    return lambda objective, output, tensors, batch: torch.tensor(next(rows))


def add(steering: Steering, batches: Sequence[DistillationBatch], *, students: int = 1) -> list[list[bool]]:
    """Look at the batches as a step does, and add them."""
    for batch in batches:
        for _ in range(students):
            steering.look(None, None, None, batch)  # type: ignore[arg-type]  # a given signal reads none of them
    return steering.add(batches)


def test_disagreement_is_soft_dice_by_clip() -> None:
    batch = make_batch([0, 1, 2])
    logits = torch.randn(3, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    tensors = batch_tensors(batch, torch.device("cpu"))
    found = disagreement(LV_OBJECTIVE, StudentOutput(logits), tensors, batch)
    for row in range(3):
        alone = soft_dice(logits[row : row + 1], tensors.mask_prob[row : row + 1], torch.ones(1), total_weight=1.0)
        assert found[row] == pytest.approx(float(alone))
    moved = temporal(LV_OBJECTIVE, StudentOutput(logits), tensors, batch)
    assert torch.equal(moved, temporal_distance(logits, tensors.mask_prob))


def test_the_judges_shortfall_is_its_score_of_the_teachers_mask_less_that_of_the_students() -> None:
    source = default_phantom(seed=5, num_frames=4, fps=16.0, size=56, case_frames=4)
    clips = [source.clip(index) for index in range(3)]
    truth = torch.stack([torch.from_numpy(clip.truth_labels == 1) for clip in clips])  # type: ignore[arg-type]
    batch = taught_batch(clips, [0, 1, 2])
    tensors = batch_tensors(batch, torch.device("cpu"))
    tensors = tensors._replace(mask_prob=torch.stack([truth.flip(3), truth], dim=2).float())  # the LV is the second
    judge, whole = MaskJudge(read_towers(), judge_id="j"), load_judge("embedded")
    assert whole is not None
    shifted = truth.roll(8, dims=3)
    shifted[2] = truth[2]
    objective = Objective(places=(1, 0))  # of the student it is the first
    output = StudentOutput(torch.stack([shifted, truth.flip(2)], dim=2).float() - 0.5)
    signal = JudgeShortfall(judge, 1, lambda index: index != 1)
    found = signal(objective, output, tensors, batch)
    scores = [whole.score(clips[0].video, mask[0].numpy())["judge_score"] for mask in (truth, shifted)]
    assert float(found[0]) == pytest.approx(scores[0] - scores[1], rel=1e-5)
    assert float(found[0]) > 0.2
    assert found[1].isnan()
    assert float(found[2]) == 0.0
    right = StudentOutput(torch.stack([truth, truth], dim=2).float() - 0.5)
    assert signal(objective, right, tensors, batch)[[0, 2]].tolist() == [0.0, 0.0]  # of another student
    better = JudgeShortfall(judge, 1, lambda index: True)(
        objective,
        output,
        tensors._replace(mask_prob=torch.stack([truth, truth.roll(20, dims=3)], dim=2).float()),
        batch,
    )
    assert float(better[2]) == 0.0  # above the teacher's


@pytest.mark.slow  # two runs with the judge, one of them on S3
def test_a_run_that_follows_the_judge_is_exact_when_it_is_resumed_on_s3_and_replayed(
    tmp_path: Path, s3_bucket: str
) -> None:
    options = ["source.steering.follow=judge", "source.steering.judged=0.5"]
    whole, cut = config_in(tmp_path, *options), config_in(f"s3://{s3_bucket}/cut", *options)
    run(whole, attempt="one")
    run(cut, attempt="one", stop=5)
    run(cut, attempt="two")
    known, _, state = facts(whole)
    assert facts(cut) == facts(whole)
    assert replay(cut, RunStorage(cut.root)) == Replay(laws=6, clips=48, problems=[])
    fresh = [row["slot"] for row in known if row["slot"] < 36 and not row["comes_back"]]  # type: ignore[attr-defined,index]
    plan = SteeringPlan(whole.source, whole.seed)
    counted = [slot for slot in fresh if plan.measured(slot)]
    stratified = [row for row in known if row["slot"] in counted and row["stratum"] != "other"]  # type: ignore[attr-defined,index]
    assert sum(sum(law.clips) for law in state.laws[:5]) == len(stratified)  # type: ignore[attr-defined]
    assert 0 < len(counted) < len(fresh)
    assert min(law.loss[k] for law in state.laws[2:] for k, n in enumerate(law.clips) if n) > 0  # type: ignore[attr-defined]


def in_strata(plan: SteeringPlan, slots: list[int]) -> DistillationBatch:
    """Clips of these slots, the patients of stratum (slot modulo 5)."""
    return dataclasses.replace(make_batch(slots), stratum=tuple(plan.name(slot % 5) for slot in slots))


def count_apart(rank: int, folder: str) -> None:
    """Scenario: each of two workers adds its half of the clips."""
    plan_module.COUNTED = 400
    config = load_config(None, [*RUN, f"storage={folder}"])
    parts = [[slot for slot in range((done - 3) * 4, done * 4) if slot % 2 == rank] for done in (3, 6)]
    values = given([[np.sin(slot) ** 2 for slot in slots] for slots in parts])
    steering = Steering(SteeringPlan(config.source, config.seed), Timetable.of(config), values)
    for done, slots in zip((3, 6), parts, strict=True):
        add(steering, [in_strata(steering.plan, slots)])
        steering.close(done)
    save_result(folder, "state", rank, json.loads(*steering.state.files().values()))


def test_two_workers_make_the_laws_of_one(two_workers: Workers, tmp_path: Path) -> None:
    two_workers.run(count_apart, tmp_path)
    config = config_in(tmp_path)
    values = given([[np.sin(slot) ** 2 for slot in range(first, first + 12)] for first in (0, 12)])
    one = Steering(SteeringPlan(config.source, config.seed), Timetable.of(config), values)
    for done in (3, 6):
        add(one, [in_strata(one.plan, list(range((done - 3) * 4, done * 4)))])
        one.close(done)
    assert load_results(tmp_path, "state") == [json.loads(*one.state.files().values())] * 2
    assert one.state.laws[-1].again


def test_a_run_without_steering_writes_none_and_a_checkpoint_of_other_strata_is_refused(tmp_path: Path) -> None:
    plain = load_config(None, [*RUN[:10], f"storage={tmp_path}", "train.steps=3"])
    run(plain, attempt="one")
    newest = latest_checkpoint(RunStorage(plain.root))
    assert newest is not None
    assert "steering.json" not in newest.files
    (row, *_) = RunStorage(plain.root).read_table(newest.ledger[0]).to_pylist()
    assert (row["stratum"], row["comes_back"]) == ("", False)
    from echodfkd.training.steering import start_steering

    with pytest.raises(InputError, match="step_00000003 holds no laws of the 4 strata"):
        start_steering(dataclasses.replace(config_in(tmp_path)), RunStorage(plain.root), newest)
