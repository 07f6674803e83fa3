"""What the benchmarks put side by side computes the same; and their arithmetic on a timeline is right."""

import dataclasses
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch

from echodfkd.config.file import load_config
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import RunError
from echodfkd.models.students.build import build_student
from echodfkd.models.teachers.build import build_teacher
from echodfkd.reporting.rows import RunRows
from echodfkd.runtime.stream.parts import slot_rules, training_source
from echodfkd.sources.video.decode import decode_video
from tests.benchmarks import (
    alone,
    alternatives,
    cases,
    clip_bytes,
    data_wait,
    decode,
    engines,
    family_of_16,
    first_update,
    imports,
    job_run,
    stream_wall,
)
from tests.benchmarks import stream_vs_two_stage as streaming
from tests.benchmarks.timing import timed
from tests.benchmarks.two_stage import TaughtVideos, teach_to_disk, train_from_disk


def test_the_student_that_matches_is_the_smallest_that_is_no_faster_than_the_teacher() -> None:
    def alone_with(filters: int) -> dict[str, float]:
        return {"teacher": 0.4, "student": 0.09 * filters}

    assert data_wait.matching_student(alone_with) == (5, {"teacher": 0.4, "student": pytest.approx(0.45)})
    with pytest.raises(RunError, match="no student of up to 32 filters takes as long"):
        data_wait.matching_student(lambda filters: {"teacher": 1.0, "student": 0.0})


def test_one_case_alone_is_imported() -> None:
    assert cases.load_case("decode") is decode.decode
    assert cases.load_case("data_wait") is data_wait.data_wait


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return streaming.write_videos(tmp_path_factory.mktemp("data"), videos=3, frames=30)


def test_the_two_stage_way_stores_the_teachers_masks_and_trains_on_windows_of_them(
    videos: list[Path], tmp_path: Path
) -> None:
    teacher = build_teacher(kind="embedded", weights="", device="cpu", batch_frames=1 << 20)
    teach_to_disk(lambda video: teacher.soft_masks(video[None])[0], videos, tmp_path)
    whole = decode_video(videos[0].read_bytes(), name="v").video
    prob = teacher.soft_masks(whole[None])[0]
    data = TaughtVideos(videos, tmp_path, frames=25, seed=0)
    video, target_prob = data[0]
    assert video.shape == target_prob.shape == (25, 56, 56)
    starts = [s for s in range(6) if np.array_equal(whole[s : s + 25, ::2, ::2], video.numpy())]
    assert len(starts) == 1
    expected = prob[starts[0] : starts[0] + 25, ::2, ::2]
    assert expected.std() > 0.1
    # cut off, not rounded: up to a level below
    assert 0 <= (expected - target_prob.numpy()).min() + 1e-6
    assert (expected - target_prob.numpy()).max() <= 1 / 255 + 1e-6

    torch.manual_seed(0)
    student = build_student(blocks=1, layers=1, filters=4, norm="batch")
    before = {name: value.clone() for name, value in student.state_dict().items()}
    trained = train_from_disk(student, data, epochs=2, batch=1, rates=[1e-3] * 6, seed=0)
    assert len(trained.epoch_s) == 2
    assert 0 < trained.epoch_s[0] < trained.epoch_s[1]
    moved = trained.student.state_dict()
    assert max(float((moved[name] - before[name]).abs().max()) for name in before) > 1e-3
    assert all(torch.equal(student.state_dict()[name], value) for name, value in before.items())


def test_break_even_is_where_both_lines_meet() -> None:
    """Two-stage 50 + 2 e, streaming 7 e: equal at e = 10."""
    two = {epoch: 50.0 + 2 * epoch for epoch in range(1, 21)}
    assert streaming.break_even({epoch: 7.0 * epoch for epoch in range(1, 21)}, two) == pytest.approx(10)
    assert streaming.break_even({epoch: 2.0 * epoch for epoch in range(1, 21)}, two) == float("inf")


def test_students_are_compared_case_by_case() -> None:
    torch.manual_seed(0)
    student = build_student(blocks=1, layers=1, filters=4, norm="batch")
    apart, scores = streaming.compare_dice(student, student, cases=2)
    assert (apart.mean, apart.n) == (0.0, 2)
    assert 0 <= scores[0] == scores[1] <= 1


def test_a_runs_start_is_held_against_that_of_ray_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    marks, lines = dict(zip(first_update.MARKS, (30.0, 35.0, 36.0, 37.0, 50.0), strict=True)), []
    monkeypatch.setattr(first_update, "our_marks", lambda folder, name: marks)
    monkeypatch.setattr(first_update, "bare_seconds", lambda: 30.0)
    found = first_update.first_update(lines.append, quick=False)
    assert (found["value"], found["holds"]) == (1.2, True)
    assert "first update begun over bare Ray: 1.20, 1.20, 1.20" in lines


def test_waiting_is_the_time_between_steps() -> None:
    steps = np.array([[10.0, 12.0], [12.5, 14.0], [13.5, 15.0], [17.5, 20.0]])
    assert data_wait.waiting(steps) == pytest.approx((0.5 + 2.5) / 10)
    assert data_wait.waiting(steps[:1]) == 0.0


def test_each_role_works_alone_on_one_core(tmp_path: Path) -> None:
    options = [*data_wait.light_run(tmp_path, videos=4), "train.steps=4", "name=alone", "storage=unused"]
    mine, threads = os.sched_getaffinity(0), torch.get_num_threads()
    found = alone.work_alone(load_config(None, options), blocks=2, core=min(mine))
    assert found["teacher"] > 0
    assert found["student"] > 0
    with alone.one_core(min(mine)):
        assert os.sched_getaffinity(0) == {min(mine)}
        assert torch.get_num_threads() == 1
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == (mine, threads)


def test_the_runs_that_are_timed_are_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_wall, "write_random_weights", lambda path: path)
    pairs = stream_wall.pairs(tmp_path, quick=True)
    light, published = pairs["light"].options, pairs["published"].options
    assert len(load_config(None, [*published, "train.steps=9", "name=a", "storage=unused"]).students) == 8
    for options in (data_wait.DEMO, light, published):
        config = load_config(None, [*options, "train.steps=9", "name=a", "storage=unused"])
        assert not config.evaluation.enabled
        assert config.num_segments == 1


def test_the_loader_that_teaches_for_itself_sees_the_streams_clips(tmp_path: Path) -> None:
    options = [*data_wait.light_run(tmp_path, videos=4), "train.steps=2", "name=alone", "storage=unused"]
    config = load_config(None, options)
    source, rules = training_source(config), slot_rules(config)
    blocks = alternatives.Blocks(source, rules, steps=2, size=config.micro_batch)
    assert len(blocks) == 2
    assert blocks[1]["slot"].tolist() == list(range(16, 32))
    np.testing.assert_array_equal(blocks[1]["video"][3], source.clip(19).video)
    assert alternatives.loader_seconds(config) > 0


def test_processes_are_pinned_by_their_titles() -> None:
    mine = os.sched_getaffinity(0)
    titles = ["ray::MapWorker(X).submit", "ray::RayTrainWorker.run"]
    running = [subprocess.Popen(["bash", "-c", f"exec -a '{title}' sleep 60"]) for title in titles]
    try:
        for process, title in zip(running, titles, strict=True):
            deadline = time.monotonic() + 20
            while psutil.Process(process.pid).cmdline()[:1] != [title]:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        job_run.pin({"ray::MapWorker": max(mine)}, job_run.processes_of(os.getpid()))
        assert [os.sched_getaffinity(process.pid) for process in running] == [{max(mine)}, mine]
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_cpu_seconds_are_told_by_stage_and_what_is_no_stage_is_the_rest() -> None:
    """Between the looks at 12 and 18: the process that ended counts for nothing, nor does what came before a look."""
    rows = RunRows(*(pa.table({}) for _ in dataclasses.fields(RunRows)))
    spans = pa.table(
        {"stage": ["source", "teacher", "students"], "actor": ["source-ab-1", "teacher-ab-2", "student0-ab-3"]}
    )
    looks = job_run.CpuClock()
    looks._looks = [
        (10.0, {1: 0.0, 2: 0.0, 3: 0.0, 4: 9.0}),
        (12.0, {1: 1.0, 2: 2.0, 3: 3.0, 4: 10.0, 6: 1.0}),
        (15.0, {1: 2.0, 2: 5.0, 3: 6.0, 4: 10.3}),
        (18.0, {1: 2.5, 2: 7.4, 3: 8.4, 4: 10.6, 5: 70.0}),
        (21.0, {1: 50.0, 2: 50.0, 3: 50.0}),
    ]
    found = looks.cores(dataclasses.replace(rows, spans=spans), begin=11.0, end=20.0)
    assert found == pytest.approx({"source": 0.25, "teacher": 0.9, "students": 0.9, "the rest": 0.1})
    with pytest.raises(RunError, match=r"^1 looks at the run's processes in 2.0 s, at least 2 are needed$"):
        looks.cores(dataclasses.replace(rows, spans=spans), begin=11.0, end=13.0)


def test_a_jobs_processes_are_looked_at() -> None:
    looks = job_run.CpuClock()
    with subprocess.Popen(["sleep", "60"]) as child:
        looks(job_run.processes_of(os.getpid()))
        child.kill()
    assert {os.getpid(), child.pid} <= set(looks._looks[0][1])
    assert looks._looks[0][1][os.getpid()] > 0
    assert job_run.processes_of(child.pid) == []


def test_decoders_give_the_same_pixels() -> None:
    lines: list[str] = []
    found = decode.decode(lines.append, quick=True)
    assert found["levels_apart"]["ours"] == found["levels_apart"]["ours, window alone"] == 0
    assert found["levels_apart"]["PyAV as documented"] == 0
    assert found["levels_apart"].get("OpenCV", 0) <= 2  # rounds twice more
    assert found["over_ours"]["ours, window alone"]["median"] > 0


def test_a_familys_work_is_counted_once_for_clips_and_masks() -> None:
    costs = family_of_16.Costs(source=1.0, teacher=6.0, students=[1.0, 2.0])
    assert costs.shared == (1 + 6 + 3) / (8 + 9)
    assert costs.apart == 6 / 12
    [once] = family_of_16.measure([(1, 1)], device="cpu", clips=1, rounds=1)
    assert once.keys() == {"source", "teacher", "1x1"}
    assert min(once.values()) > 0


def test_a_block_holds_little_beside_its_pixels_and_is_read_without_a_copy() -> None:
    found = clip_bytes.clip_bytes(lambda line: None, quick=True)
    assert found["blocks"]["teacher, students"]["pixels"] == 2 * 16 * 56 * 56
    assert found["blocks"]["teacher, students"]["read_copies"] == 0
    assert 1 < found["value"] < 1.2
    json.dumps(found)


def test_engines_take_the_same_updates() -> None:
    """After two updates from the same weights, fp32: sums in another order, at a learning rate of 1e-3."""
    students = {"a": StudentConfig(blocks=1, layers=1, filters=2)}
    ready = engines.prepare(students, WindowConfig(frames=2, size=16))
    assert ready.keys() == engines.ENGINES.keys()
    first = {name: update.students[0].engine.weights() for name, update in ready.items()}
    for update in ready.values():
        assert min(timed(update)()) > 0
        update()
    weights = {name: update.students[0].engine.weights() for name, update in ready.items()}
    moved = max(float((weights["plain"][key] - first["plain"][key]).abs().max()) for key in first["plain"])
    assert moved > 1e-3
    for name, found in weights.items():
        for key, value in found.items():
            assert float((value - weights["plain"][key]).abs().max()) < 1e-5, (name, key)


def test_the_import_of_the_losses_is_timed_without_torchs() -> None:
    assert 0 < imports.own_import_seconds("json.tool", apart="json") < 5
