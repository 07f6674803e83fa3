"""Teachers that hang, dawdle, or give nonsense, and a wall clock that jumps, in real runs on the session's cluster."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import RunError
from echodfkd.reporting.rows import column, read_rows
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from tests.integration import fake_teachers
from tests.integration.fault_rows import record
from tests.integration.helpers_faults import ThreadedRun, final_weights, train_without_ray

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

RUN = ["train.steps=24", "train.checkpoint_every=8", "train.engine=plain", "evaluation.enabled=false"]


@pytest.mark.slow  # over a minute
def test_a_hung_teacher_is_replaced_and_a_straggler_waited_for(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """The hung one holds the interpreter lock: only what needs none can end it."""
    config = tiny_config(*RUN, "teacher.min_actors=2", "teacher.max_actors=2", "teacher.timeout_s=6")
    undisturbed = final_weights(train_without_ray(config, tmp_path / "alone"))
    run = ThreadedRun(fake_teachers.faulty(config, "fake_straggler_and_hang", tmp_path / "memory"))
    hang = tmp_path / "memory" / "hang"
    run.wait_until(lambda: hang.exists() and hang.read_text())
    pid = int(hang.read_text())
    detected_s = run.wait_until(lambda: not psutil.pid_exists(pid))
    summary = run.finish()

    assert summary["ledger"] == {"clips": 96, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    report = check_ledger(RunStorage(config.root), config.plan_slots)
    assert not report.problems
    assert final_weights(config) == undisturbed
    assert config.teacher.timeout_s <= detected_s + 1
    spans = read_rows(RunStorage(config.root)).spans
    actors = set(column(spans, "actor")[column(spans, "stage") == "teacher"])
    assert len(actors) == 3, "the straggler, the one that hung, and the one in its place"
    slow = (tmp_path / "memory" / "slow").read_text()
    assert any(actor.endswith(f"-{slow}") for actor in actors), "a slow teacher is no dead one"
    means = "`teacher.timeout_s` (6 s here) ends it; its block is taught again by another"
    record(report, "a teacher that never answers", means, detected_s=detected_s, same=True)
    record(report, "a teacher 20 times slower than the other", "waited for: order and numbers stay", same=True)


@pytest.mark.slow
def test_masks_that_are_not_finite_are_replaced_and_a_wrong_shape_is_one_sentence(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = tiny_config(*RUN, "data.quarantine_limit=0.5")
    config = fake_teachers.faulty(config, "fake_not_finite_then_misshapen", tmp_path / "memory")
    with pytest.raises(RunError, match=r"the teacher embedded-\w+ returned masks of shape \(4, 4, 32, 31\) for video"):
        run_distillation(config, lambda line: None)
    summary = run_distillation(config, lambda line: None)  # the teacher is mended: the same command goes on

    report = check_ledger(RunStorage(config.root), config.plan_slots)
    assert (report.clips, report.lost, report.repeated, report.problems) == (96, 0, 0, [])
    assert report.quarantined > 0
    assert summary["ledger"]["quarantined"] == report.quarantined
    rows = read_rows(RunStorage(config.root)).quarantine.to_pylist()
    assert {row["stage"] for row in rows} == {"teacher"}
    assert all("gave a mask that is not finite" in row["reason"] for row in rows)
    # the same clips are at fault without Ray, and what is trained in their place is the same
    assert final_weights(train_without_ray(config, tmp_path / "alone")) == final_weights(config)
    record(report, "a teacher that gives NaN", "the clip is quarantined and replaced", same=True)
    means = "the run ends with one sentence; the same command resumes it"
    record(report, "a teacher that gives masks of another shape", means, same=True)


@pytest.fixture
def jumping_clock(tmp_path: Path) -> Iterator[Path]:
    """The file that rules the wall clock of this process and of those a `JumpingClockConfig` comes to."""
    path = tmp_path / "runs" / "clock"
    path.parent.mkdir()
    path.write_text("0")
    true_time = time.time
    fake_teachers.install_clock(path)
    yield path
    path.unlink()  # workers that live on have the true time again
    time.time = true_time
    del time.true_time


@pytest.mark.slow
def test_a_wall_clock_that_jumps_disturbs_nothing(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, jumping_clock: Path
) -> None:
    """An hour forward, then a day back, in the middle of the run, in every process of it at once."""
    config = tiny_config(*RUN, "train.steps=120", "ray.progress_s=0.2", "data.no_progress_timeout_s=120")
    undisturbed = final_weights(train_without_ray(config, tmp_path / "alone"))
    values = {name: getattr(config, name) for name in vars(config)}
    run = ThreadedRun(fake_teachers.JumpingClockConfig(**values))
    run.wait_until(lambda: run.front >= 20)
    jumping_clock.write_text("3600")
    forward_s = run.wait_until(lambda: run.front >= 50)
    jumping_clock.write_text("-86400")
    back_s = run.wait_until(lambda: run.front >= 80)
    summary = run.finish()

    assert summary["ledger"] == {"clips": 480, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    report = check_ledger(RunStorage(config.root), config.plan_slots)
    assert not report.problems
    assert final_weights(config) == undisturbed
    spans = read_rows(RunStorage(config.root)).spans
    durations = column(spans, "end") - column(spans, "start")
    assert durations.min() >= 0
    assert durations.max() < 600
    assert summary["pipeline"]["wall_s"] < 3000
    assert summary["pipeline"]["steady_s"] < 3000
    assert forward_s < 120
    assert back_s < 120
    record(report, "the wall clock jumps 1 h forward, then a day back", "nothing is measured with it", same=True)
