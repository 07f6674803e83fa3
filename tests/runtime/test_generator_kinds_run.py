"""Every kind of generator in a whole run: its files are written here, its actors open them, one of them is killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from echodfkd.config.identity import open_run_folder
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.generator import GENERATORS
from echodfkd.runtime.stream.builders import load_teacher
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import checkpoint_folder, list_checkpoints
from tests.helpers.generators import (
    write_batch_norm_teacher,
    write_diffecho,
    write_echoflow,
    write_echolvfm,
    write_echonet_synthetic,
    write_free_echo,
    write_tiny_painter,
)
from tests.integration.helpers_faults import ThreadedRun, final_weights, train_without_ray
from tests.runtime.helpers_generators import generator_processes

pytestmark = [
    pytest.mark.slow,  # a minute each, Free-Echo five: its frames have 128 x 128 pixels, whatever the width
    pytest.mark.ray,
    pytest.mark.usefixtures("local_ray"),
]


@dataclass(frozen=True)
class Kind:
    """How a kind is tried: its files (none: the shipped ones), updates, and updates between two checkpoints."""

    write: Callable[[Path], Path] | None
    steps: int = 30
    every: int = 3
    actors: int = 2
    sampler_steps: int = 1


KINDS = {
    "echonet_synthetic": Kind(write_echonet_synthetic),
    "echoflow": Kind(write_echoflow),
    "echolvfm": Kind(lambda folder: write_echolvfm(folder, "mean")),
    "free_echo": Kind(write_free_echo, steps=6, every=2),
    "diffecho": Kind(lambda folder: write_diffecho(folder, control=True)),
    "latent_video": Kind(None, actors=4),
    "painted": Kind(lambda path: write_tiny_painter(path.with_suffix(".safetensors")), sampler_steps=0),
    "noise": Kind(None, sampler_steps=0),
    "guided": Kind(write_batch_norm_teacher, sampler_steps=2),
    "adversarial": Kind(None, sampler_steps=0),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_with_other_actors_one_of_which_dies(
    kind: str, tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """The same student as that of one process, which made every clip by itself and in turn."""
    assert set(KINDS) == set(GENERATORS)
    tried = KINDS[kind]
    pool = f"num_cpus: 0.5, min_actors: {tried.actors}, max_actors: {tried.actors}, steps: {tried.sampler_steps}"
    weights = "" if tried.write is None else f", weights: {tried.write(tmp_path / 'files')}"
    config = tiny_config(
        f"source={{kind: {kind}, generator: {{{pool}{weights}}}}}",
        "evaluation.source.kind=phantom",
        "evaluation.enabled=false",
        "window.fps=32",
        "window.size=96",
        "train.engine=plain",
        "train.global_batch=1",
        f"train.steps={tried.steps}",
        f"train.checkpoint_every={tried.every}",
        "train.keep_resume=100",
        "data.ahead_mb=1",  # some 15 clips, so that clips are left to make when the actor dies
    )
    alone = train_without_ray(config, tmp_path / "alone")
    begin_with_the_first_checkpoint_of(alone, config)

    run = ThreadedRun(config)
    published = Path(config.root, checkpoint_folder(2 * tried.every), "manifest.json")
    run.wait_until(published.exists, timeout_s=500)
    victims = generator_processes()
    assert len(victims) >= tried.actors, "the actors live for the whole run"
    victims[0].kill()
    summary = run.finish()

    clips = tried.steps
    assert summary["ledger"] == {"clips": clips, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    assert check_ledger(RunStorage(config.root), config.plan_slots).problems == []
    assert summary["pipeline"]["stages"]["generator"]["clips"] >= clips - tried.every
    assert "The generator made " in Path(summary["report"]).read_text()
    assert final_weights(config) == final_weights(alone)


def begin_with_the_first_checkpoint_of(other: RunConfig, config: RunConfig) -> None:
    """Make the run folder of ``config``, which other is but for its name, as it was at that checkpoint."""
    open_run_folder(config, load_teacher(config).teacher_id)
    shutil.copytree(other.root, config.root, dirs_exist_ok=True)
    first, *later = list_checkpoints(RunStorage(config.root))
    assert first.step == config.train.checkpoint_every
    assert later
    for checkpoint in later:
        shutil.rmtree(Path(config.root, checkpoint.folder))
