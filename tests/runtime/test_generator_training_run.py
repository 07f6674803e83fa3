"""A learned generator trained on a real local Ray: two workers under DeepSpeed, one of which is killed."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from echodfkd.config.file import load_config
from echodfkd.models.generators.latent_networks import LatentSpec
from echodfkd.models.generators.latent_video import LatentModel
from echodfkd.runtime.generator_run import run_generator_training
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint, list_checkpoints
from echodfkd.training.generator.recipe import GeneratorRecipe
from tests.helpers.generator_training import train_alone

SPEC = LatentSpec(size=32, frames=4, vae_width=8, width=16, depth=1, heads=2)
RECIPE = GeneratorRecipe(
    clips=3, clip_frames=7, vae_steps=4, flow_steps=400, spec=SPEC, vae_batch=4, flow_batch=2, precision="fp32"
)


@pytest.mark.ray
@pytest.mark.slow  # a minute; tests/unit/training/test_generator_training.py has the training without Ray
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("local_ray")
def test_a_killed_worker_costs_nothing(tmp_path: Path) -> None:
    source = default_phantom(seed=5, num_frames=7, fps=32.0, size=32, case_frames=7)
    config = load_config(None, ["students.none={blocks: 1}", "train.workers=2", "train.num_cpus=0.5"])
    folder, found = tmp_path / "ray", []

    def run() -> None:
        found.append(run_generator_training(config, source, RECIPE, folder, save_s=0.5, report=lines.append))

    lines: list[str] = []
    thread = threading.Thread(target=run)
    thread.start()
    while latest_checkpoint(RunStorage(f"{folder}/flow")) is None:
        assert thread.is_alive(), lines
        time.sleep(0.05)
    victim = next(p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline()))
    victim.kill()
    thread.join(500)
    ((model, clips),) = found
    assert clips.video.shape == (3, 7, 32, 32)
    steps = [commit.step for commit in list_checkpoints(RunStorage(f"{folder}/flow"))]
    assert len(steps) > 1
    assert steps[-1] == 400
    assert [line.split()[0] for line in lines if line.startswith(("vae", "flow"))][-1] == "flow"
    (tmp_path / "alone").mkdir()
    alone, _ = train_alone(tmp_path / "alone", source, RECIPE)
    assert error(model, alone) < 0.1 * error(model, untrained(tmp_path, source))


def untrained(folder: Path, source: object) -> LatentModel:
    (folder / "less").mkdir()
    return train_alone(folder / "less", source, replace(RECIPE, flow_steps=1))[0]  # type: ignore[arg-type]


def error(found: LatentModel, expected: LatentModel) -> float:
    """Relative distance of the velocity fields' weights."""
    pairs = list(zip(found.flow.parameters(), expected.flow.parameters(), strict=True))
    return float(sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)) ** 0.5
