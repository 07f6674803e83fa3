"""A steered run on Ray whose worker is killed: the clips, laws and weights of the same run in one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from echodfkd.config.run import RunConfig
from echodfkd.sources.steering.replay import replay
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint
from echodfkd.storage.steering import read_steering
from tests.chaos.chaos_cluster import of_role
from tests.helpers.generators import write_tiny_latent_video
from tests.integration.helpers_faults import ThreadedRun, assert_undisturbed

pytestmark = pytest.mark.ray

RUN = [
    "train.steps=24", "train.checkpoint_every=6", "train.engine=plain", "evaluation.enabled=false",
    "teacher.min_actors=2", "teacher.max_actors=2", "teacher.num_cpus=0.5",
    "source.steering.strata={ef_percent: [50], image_quality: [0.5]}", "source.steering.floor=0.3",
    "source.steering.again=0.2",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(("kind", "follow"), [("phantom", "disagreement"), ("latent_video", "judge")])
def test_a_killed_steered_run_ends_as_the_same_run_in_one_process(
    kind: str, follow: str, tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    options = [f"source.kind={kind}", f"source.steering.follow={follow}"]
    if kind == "latent_video":
        weights = write_tiny_latent_video(tmp_path / "latent.safetensors")
        options += [
            f"source.generator={{weights: {weights}, steps: 2, num_cpus: 0.5}}",
            "evaluation.source.kind=phantom",
        ]
    config = tiny_config(*RUN, *options)
    storage = RunStorage(config.root)
    run = ThreadedRun(config)
    run.wait_until(lambda: (newest := latest_checkpoint(storage)) is not None and newest.step >= 12)
    victims = of_role("student", psutil.Process().children(recursive=True))
    assert len(victims) == 1, victims
    victims[0].kill()
    run.finish()
    assert_undisturbed(config, tmp_path / "alone")
    alone = RunStorage(str(tmp_path / "alone" / "undisturbed"))
    states = [read_steering(one, latest_checkpoint(one)) for one in (storage, alone)]  # type: ignore[arg-type]
    assert states[0] is not None
    assert states[0] == states[1]
    assert [law.step for law in states[0].laws] == [0, 6, 12, 18, 24, 30]
    assert states[0].laws[-1].again
    for one in (storage, alone):
        found = replay(config, one)
        assert (found.laws, found.clips, found.problems) == (6, config.plan_slots, [])
