"""Generated clips on a real local Ray: the same on any number of actors, after a resume, and if an actor is killed."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from echodfkd.config.run import RunConfig
from echodfkd.models.generators.painted import PAINTER_FILE
from echodfkd.reporting.rows import column, read_rows
from echodfkd.runtime.stream.builders import drafting_source, training_source
from echodfkd.storage.checkpoints import publish
from echodfkd.storage.files import RunStorage
from echodfkd.storage.intervals import Intervals
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import checkpoint_folder
from tests.benchmarks.generator_actors import made_clips, pool_config
from tests.helpers.generators import write_tiny_painter
from tests.integration.helpers_faults import ThreadedRun, final_weights, train_without_ray
from tests.runtime.helpers_generators import generator_processes


@pytest.mark.ray
@pytest.mark.slow  # a minute; tests/unit/teaching/test_generating.py has the stage without Ray
@pytest.mark.usefixtures("local_ray")
def test_a_killed_generator_changes_nothing(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    write_tiny_painter(tmp_path / "painter.safetensors")
    painted = f"{{kind: painted, generator: {{weights: {tmp_path}/painter.safetensors, num_cpus: 0.5, max_actors: 2"
    config = tiny_config(
        "source.kind=mixture",
        "source.parts.drawn={weight: 1}",
        f"source.parts.made={painted}, min_actors: 2, batch: 1}}}}",
        "train.steps=40",
        "window.frames=16",
        "data.ahead_mb=1",  # so that clips are left to make when the actor dies
        "train.checkpoint_every=8",
        "train.engine=plain",
        "evaluation.enabled=false",
    )
    run = ThreadedRun(config)
    published = Path(config.root, "checkpoints", "step_00000008", "manifest.json")
    run.wait_until(published.exists, timeout_s=500)
    victims = generator_processes()
    assert victims, "the actors live for the whole run"
    victims[0].kill()
    summary = run.finish()

    assert summary["ledger"] == {"clips": 160, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    storage = RunStorage(config.root)
    assert check_ledger(storage, config.plan_slots).problems == []
    rows = read_rows(storage)
    assert Counter(column(rows.ledger, "source")) == {"drawn": 80, "made": 80}
    made = summary["pipeline"]["stages"]["generator.made"]
    assert made["clips"] >= 80, "clips that died with the actor count twice"
    assert made["clip_s"] == pytest.approx(made["busy_s"] / made["clips"])
    assert "The generator of made made " in Path(config.root, "report.html").read_text()
    alone = train_without_ray(config, tmp_path / "alone")
    assert final_weights(alone) == final_weights(config)


@pytest.mark.ray
@pytest.mark.slow  # five streams
@pytest.mark.usefixtures("local_ray")
def test_a_clip_is_the_same_on_any_actors_in_any_batch_and_after_a_resume(tmp_path: Path) -> None:
    def config(actors: int, batch: int) -> RunConfig:
        small = ("window.frames=8", "window.size=32", "train.steps=8", "source.generator.steps=2")
        return pool_config(str(tmp_path), actors, batch, *small)

    source = training_source(config(1, 1))
    clips = [source.clip(index) for index in range(32)]
    alone = {clip.clip_id: clip.video.astype(int) for clip in clips}
    assert len({clip.video.tobytes() for clip in clips}) == 32
    for actors, batch, tolerance in ((1, 1, 0), (4, 1, 0), (1, 8, 1), (4, 8, 1)):
        found = made_clips(config(actors, batch))
        assert found.keys() == alone.keys()
        assert max(np.abs(found[name] - alone[name]).max() for name in alone) <= tolerance, (actors, batch)
    resumed = config(4, 1)
    publish(
        RunStorage(resumed.root),
        step=3,
        students={},
        consumed=Intervals.of(range(12)),
        ledger={},
        quarantine={},
        meta={},
    )
    rest = made_clips(resumed)
    assert list(rest) == [clip.clip_id for clip in clips[12:]]
    assert all(np.array_equal(rest[name], alone[name]) for name in rest)


@pytest.mark.ray
@pytest.mark.slow  # two workers and three segments
@pytest.mark.usefixtures("local_ray")
def test_two_workers_train_the_painter_of_one_over_several_segments(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    pool = "generator: {num_cpus: 0.5, min_actors: 2, max_actors: 2}"
    options = (
        f"source={{kind: mixture, parts: {{plain: {{kind: noise}}, against: {{kind: adversarial, {pool}}}}}}}",
        "evaluation.enabled=false",
        "train.engine=plain",
        "students.a.norm=group",  # a batch's statistics are those of one worker
        "train.checkpoint_every=1",
        "data.segment_tasks=4",
    )
    config = tiny_config(*options, "train.workers=2")
    assert config.num_segments == 3
    summary = ThreadedRun(config).finish()
    assert summary["ledger"] == {"clips": 24, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    assert check_ledger(RunStorage(config.root), config.plan_slots).problems == []
    alone = train_without_ray(tiny_config(*options), tmp_path / "alone")
    source = drafting_source(config)
    drawn = [source.clip(index).clip_id for index in range(config.plan_slots)]
    assert sorted(column(read_rows(RunStorage(config.root)).ledger, "clip_id")) == sorted(drawn)
    assert any("-g4-" in name for name in drawn), "clips of the last update tell four updates of their painter"
    for file in (PAINTER_FILE, "a/student.safetensors"):
        first, last = (weights(alone, step, file) for step in (1, config.train.steps))
        apart = weights(config, config.train.steps, file) - last  # gradients are summed in another order
        assert np.linalg.norm(apart) < 0.05 * np.linalg.norm(last - first), file


def weights(config: RunConfig, step: int, file: str) -> np.ndarray:
    """All numbers of a file of weights in a checkpoint."""
    tensors = load_file(Path(config.root, checkpoint_folder(step), file))
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])
