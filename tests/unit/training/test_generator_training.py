"""The training of the learned generator: exact resume, its loss, its clips."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from echodfkd.core.errors import ClipError, ConfigError, InputError
from echodfkd.core.records import VideoClip
from echodfkd.models.generators.latent_networks import LatentSpec, VelocityNet
from echodfkd.models.generators.latent_video import LatentModel
from echodfkd.sources.phantom.source import PhantomSource, default_phantom
from echodfkd.training.generator.recipe import GeneratorRecipe
from echodfkd.training.generator.run import train_generator
from echodfkd.training.generator.stages import flow_loss

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


def train(folder: Path, recipe: GeneratorRecipe = RECIPE) -> LatentModel:
    return train_generator(source(), recipe, folder, report=lambda line: None)[0]


def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    half = replace(RECIPE, flow_steps=2)
    before = train(tmp_path / "parts", half)
    after = train(tmp_path / "parts")
    for name, value in whole.tensors().items():
        torch.testing.assert_close(after.tensors()[name], value, rtol=0, atol=0, msg=name)
    assert any(not torch.equal(before.tensors()[name], value) for name, value in whole.tensors().items())
    with pytest.raises(InputError, match=r"--resume: .*another recipe \(average\)"):
        train(tmp_path / "parts", replace(RECIPE, average=0.5))
    with pytest.raises(InputError, match="lists clips of another run"):
        train(tmp_path / "parts", replace(RECIPE, clips=2))


def test_the_gathering_goes_on_after_a_stop(tmp_path: Path) -> None:
    from echodfkd.training.generator.gathered import gather_clips

    clips = [source().clip(index) for index in (0, 2, 3)]
    with pytest.raises(KeyboardInterrupt):
        gather_clips(Stopping(3), 3, (7, 32), tmp_path, report=print)
    gathered = gather_clips(Stopping(9), 3, (7, 32), tmp_path, report=print)
    np.testing.assert_array_equal(gathered.video, [clip.video for clip in clips])
    np.testing.assert_allclose(gathered.wishes[:, 0], [clip.conditions.ef_percent for clip in clips], rtol=1e-6)
    assert json.loads((tmp_path / "clips.json").read_text())["index"] == 4


def test_the_loss_is_the_error_of_the_velocity() -> None:
    data, noise = torch.randn(2, 2, 4, 4, 4, 4)
    network = VelocityNet(SPEC)  # a fresh one gives no velocity
    found = flow_loss(network, data, noise, torch.rand(2), torch.rand(2, 4), torch.rand(2, 4), "fp32")
    assert found.item() == pytest.approx(float((noise - data).square().mean()), rel=1e-6)


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
