"""Works that the benchmarks compare compute the same; arithmetic on timelines."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from echodfkd.config.file import load_config
from echodfkd.core.errors import RunError
from echodfkd.models.students.build import build_student
from echodfkd.models.teachers.build import build_teacher
from echodfkd.sources.video.decode import decode_video
from tests.benchmarks import data_wait, family_of_16, score_parts
from tests.benchmarks import stream_vs_two_stage as streaming
from tests.benchmarks.two_stage import TaughtVideos, teach_to_disk, train_from_disk
from tests.helpers.teachers import lv_prob


def test_the_matching_student_is_the_smallest_that_is_no_faster_than_the_teacher() -> None:
    def seconds_with(filters: int) -> dict[str, float]:
        return {"teacher": 0.4, "student": 0.09 * filters}

    assert data_wait.matching_student(seconds_with) == (5, {"teacher": 0.4, "student": pytest.approx(0.45)})
    with pytest.raises(RunError, match="no student of up to 32 filters takes as long"):
        data_wait.matching_student(lambda filters: {"teacher": 1.0, "student": 0.0})


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return streaming.write_videos(tmp_path_factory.mktemp("data"), videos=3, frames=30)


def test_the_two_stage_way_stores_the_teachers_masks_and_trains_on_windows_of_them(
    videos: list[Path], tmp_path: Path
) -> None:
    teacher = build_teacher(kind="embedded", weights="", device="cpu", batch_frames=1 << 20)
    teach_to_disk(lambda video: lv_prob(teacher, video[None])[0], videos, tmp_path)
    whole = decode_video(videos[0].read_bytes(), name="v").video
    prob = lv_prob(teacher, whole[None])[0]
    data = TaughtVideos(videos, tmp_path, frames=25, seed=0)
    video, target_prob = data[0]
    assert video.shape == target_prob.shape == (25, 56, 56)
    starts = [s for s in range(6) if np.array_equal(whole[s : s + 25, ::2, ::2], video.numpy())]
    assert len(starts) == 1
    expected = prob[starts[0] : starts[0] + 25, ::2, ::2]
    assert expected.std() > 0.1
    # truncated, not rounded: up to a level below
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


def test_seconds_of_a_stream_begin_with_its_start() -> None:
    """Two updates an epoch. The first ends 30 s after the command, the others 3 s apart."""
    ends = 100.0 + 3.0 * np.arange(4)
    plan = streaming.Plan(videos=2 * streaming.BATCH, frames=1, epochs=2)
    assert streaming.seconds_by_epoch(ends, plan, start=ends[0] - 30.0) == {1: 33.0, 2: 39.0}


def test_break_even_is_the_epoch_at_which_both_take_equally_long() -> None:
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


def test_waiting_is_the_time_between_steps() -> None:
    steps = np.array([[10.0, 12.0], [12.5, 14.0], [13.5, 15.0], [17.5, 20.0]])
    assert data_wait.waiting(steps) == pytest.approx((0.5 + 2.5) / 10)
    assert data_wait.waiting(steps[:1]) == 0.0


@pytest.mark.slow  # half a minute: a process of its own for each stage
def test_each_stage_is_timed_on_one_core(tmp_path: Path) -> None:
    options = [*data_wait.light_run(tmp_path, videos=4), data_wait.student_option(4)]
    config = load_config(None, [*options, "train.steps=4", "name=isolated", "storage=unused"])
    found = data_wait.stage_seconds(config, blocks=2, core=min(os.sched_getaffinity(0)))
    assert found["teacher"] > 0
    assert found["student"] > 0


def test_a_core_of_its_own_is_given_back() -> None:
    mine, threads = os.sched_getaffinity(0), torch.get_num_threads()
    with data_wait.one_core(min(mine)):
        assert os.sched_getaffinity(0) == {min(mine)}
        assert torch.get_num_threads() == 1
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == (mine, threads)


def test_the_timed_runs_have_valid_configs(tmp_path: Path) -> None:
    light = [*data_wait.light_run(tmp_path, videos=1), data_wait.student_option(4)]
    for options in (data_wait.DEMO, light):
        config = load_config(None, [*options, "train.steps=9", "name=a", "storage=unused"])
        assert not config.evaluation.enabled
        assert config.num_segments == 1


def test_a_family_makes_clips_and_masks_once() -> None:
    costs = family_of_16.Costs(source=1.0, teacher=6.0, students=[1.0, 2.0])
    assert costs.shared == (1 + 6 + 3) / (8 + 9)
    assert costs.apart == 6 / 12
    [once] = family_of_16.measure([(1, 1)], device="cpu", clips=1, rounds=1, frames=2)
    assert once.keys() == {"source", "teacher", "1x1"}
    assert min(once.values()) > 0


def test_a_listing_is_one_request_for_a_thousand_parts_and_no_part_is_read_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(score_parts, "STUDENTS", 2)
    monkeypatch.setattr(score_parts, "METRICS", 2)
    monkeypatch.setattr(score_parts, "DELAY_S", 0.001)
    lines: list[str] = []
    found = score_parts.score_parts(lines.append, quick=True)
    assert (found["parts"], found["rows"], found["holds"]) == (6, 6 * 24 * 2, True)
    assert lines[1].split()[-1] == "1"
    assert int(lines[2].split()[-1]) < 6 * 2 + 20  # a part is its size and its bytes
