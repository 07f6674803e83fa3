"""The training of the learned generator: exact resume, its loss, its clips."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echodfkd.config.sections.training import TrainConfig
from echodfkd.core.errors import ClipError, ConfigError, InputError
from echodfkd.core.records import VideoClip
from echodfkd.models.generators.latent_networks import LatentSpec, VelocityNet
from echodfkd.models.generators.latent_video import LatentModel
from echodfkd.sources.phantom.source import PhantomSource, default_phantom
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint
from echodfkd.training.collectives import gather_texts
from echodfkd.training.generator import stages
from echodfkd.training.generator.gathered import gather_clips, read_gathered
from echodfkd.training.generator.recipe import GeneratorRecipe
from echodfkd.training.generator.run import train_generator
from echodfkd.training.generator.stage import Place
from echodfkd.training.generator.stages import FlowLoss
from tests.helpers.generator_training import train_alone
from tests.helpers.training import Workers

SPEC = LatentSpec(size=32, frames=4, vae_width=8, width=16, depth=1, heads=2)
RECIPE = GeneratorRecipe(
    seed=5, clips=3, clip_frames=7, vae_steps=4, flow_steps=4, spec=SPEC, vae_batch=3, flow_batch=2, precision="fp32"
)


def source() -> PhantomSource:
    return default_phantom(seed=5, num_frames=7, fps=32.0, size=32, case_frames=7)


class Stopping(PhantomSource):
    """Its second clip fails, and a later one interrupts the run."""

    def __init__(self, stop: int) -> None:
        self._inner, self._stop = source(), stop

    def clip(self, index: int) -> VideoClip:
        if index == self._stop:
            raise KeyboardInterrupt
        if index == 1:
            raise ClipError("damaged")
        return self._inner.clip(index)


def train(folder: Path, recipe: GeneratorRecipe = RECIPE, place: Place | None = None) -> LatentModel:
    folder.mkdir(exist_ok=True)
    return train_alone(folder, source(), recipe, place=place)[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> LatentModel:
    return train(tmp_path_factory.mktemp("whole"))


def test_a_stopped_run_ends_with_the_same_bits(whole: LatentModel, tmp_path: Path) -> None:
    half = replace(RECIPE, flow_steps=2)
    before = train(tmp_path / "parts", half)
    after = train(tmp_path / "parts")
    assert_same(after, whole, 0.0)
    assert any(not torch.equal(before.tensors()[name], value) for name, value in whole.tensors().items())
    with pytest.raises(InputError, match=r"--resume: .*another recipe \(average\)"):
        train(tmp_path / "parts", replace(RECIPE, average=0.5))
    with pytest.raises(InputError, match="lists clips of another run"):
        train(tmp_path / "parts", replace(RECIPE, clips=2))


class StoppedStageError(Exception):
    """Ends a training at a step, as a kill would."""


def test_a_training_that_is_killed_goes_on_from_its_checkpoint(
    whole: LatentModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = stages.clip_noise
    left = iter(range(2 * RECIPE.flow_batch))  # two steps of the second training

    def noise(*arguments: Any) -> torch.Tensor:
        if next(left, None) is None:
            raise StoppedStageError
        return draw(*arguments)

    monkeypatch.setattr(stages, "clip_noise", noise)
    often = Place(str(tmp_path), save_s=0.0)
    with pytest.raises(StoppedStageError):
        train(tmp_path, place=often)
    newest = latest_checkpoint(RunStorage(f"{tmp_path}/flow"))
    assert newest is not None
    assert newest.step == 2
    monkeypatch.undo()
    assert_same(train(tmp_path), whole, 0.0)


def assert_same(found: LatentModel, expected: LatentModel, tolerance: float) -> None:
    for name, value in expected.tensors().items():
        torch.testing.assert_close(found.tensors()[name], value, rtol=0, atol=tolerance, msg=name)


def two_processes(rank: int, folder: str) -> None:
    for engine, stage in (("plain", 0), ("deepspeed", 0), ("deepspeed", 2)):
        place = Path(folder) / f"{engine}{stage}"
        if rank == 0:
            place.mkdir()
            gather_clips(source(), 3, (7, 32), place, report=print)
        gather_texts("")
        options = TrainConfig(workers=2, engine=engine, zero_stage=stage)
        train_generator(read_gathered(place), PAIRED, Place(str(place), rank, train=options, save_s=0.0))


PAIRED = replace(RECIPE, vae_batch=4)


@pytest.mark.slow  # the processes import DeepSpeed
def test_two_workers_train_as_one_under_every_engine(two_workers: Workers, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    one, _ = train_alone(tmp_path / "one", source(), PAIRED)
    two_workers.run(two_processes, tmp_path)
    for engine in ("plain0", "deepspeed0", "deepspeed2"):
        folder = tmp_path / engine
        again = train_generator(read_gathered(folder), PAIRED, Place(str(folder)))  # nothing is left: it reads them
        # gradients are summed in another order, and latents rounded to half precision pass a difference on enlarged
        assert_same(again, one, 2e-3)
        assert len(list((folder / "flow" / "checkpoints").glob("*/flow/resume.safetensors"))) == 1
    with pytest.raises(ConfigError, match=r"train.zero_stage: got 3, the training of a generator takes 0, 1 or 2"):
        train_generator(read_gathered(folder), PAIRED, Place(str(folder), train=TrainConfig(zero_stage=3)))


def test_the_gathering_goes_on_after_a_stop(tmp_path: Path) -> None:
    clips = [source().clip(index) for index in (0, 2, 3)]
    with pytest.raises(KeyboardInterrupt):
        gather_clips(Stopping(3), 3, (7, 32), tmp_path, report=print)
    gathered = gather_clips(Stopping(9), 3, (7, 32), tmp_path, report=print)
    np.testing.assert_array_equal(gathered.video, [clip.video for clip in clips])
    np.testing.assert_allclose(gathered.wishes[:, 0], [clip.conditions.ef_percent for clip in clips], rtol=1e-6)
    assert json.loads((tmp_path / "clips.json").read_text())["index"] == 4


def test_the_loss_is_the_error_of_the_velocity_and_motion_counts_more() -> None:
    data, noise = torch.randn(2, 2, 4, 4, 4, 4)
    network = VelocityNet(SPEC)  # a fresh one gives no velocity
    found = FlowLoss(network, 8.0)(data, noise, torch.rand(2), torch.rand(2, 4), torch.rand(2, 4))
    wrong = (noise - data).numpy()
    expected = np.square(wrong.mean(1)).mean() + 8.0 * wrong.var(1).mean()
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clips": 1}, "--clips: got 1, must be at least 2"),
        ({"clip_frames": 3}, "window.frames: got 3, must be at least 4"),
        ({"spec": replace(SPEC, size=40)}, "window.size: got 40, must be a multiple of 16"),
    ],
)
def test_recipes_that_cannot_be_used(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(RECIPE, **change).check()  # type: ignore[arg-type]
