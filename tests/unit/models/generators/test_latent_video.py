"""The learned generator: its file, its clips, and refusals."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from echodfkd.config.pins import shipped_weights
from echodfkd.config.sections.source import PartConfig
from echodfkd.core.errors import ClipError, InputError
from echodfkd.evaluation.generator_scores import measured_ef
from echodfkd.models.generators.build import build_generator
from echodfkd.models.generators.latent_networks import FrameVAE, LatentSpec, VelocityNet
from echodfkd.models.generators.latent_video import (
    LatentModel,
    LatentVideo,
    load_latent_model,
    window_starts,
    write_latent_model,
)
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.models.teachers.build import build_teacher

SPEC = LatentSpec(size=32, frames=4, vae_width=8, width=16, depth=2, heads=2)
REQUEST = ClipRequest("a", seed=2**63 + 5, frames=4, fps=16.0, size=32, ef=0.6, conditions={"edv_ml": 80.0})


@pytest.fixture(scope="module")
def model() -> LatentModel:
    """Networks whose every weight matters: those that begin at zero are drawn too."""
    torch.manual_seed(3)
    vae, flow = FrameVAE(SPEC), VelocityNet(SPEC)
    for layer in (flow.out, flow.modulation):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return LatentModel(SPEC, vae, flow, torch.full((4,), 0.5), torch.full((4,), 2.0))


def made(model: LatentModel, *requests: ClipRequest, **options: float) -> list[np.ndarray]:
    clips = LatentVideo(model, steps=3, **options).generate(requests)  # type: ignore[arg-type]
    return [clip for clip in clips if isinstance(clip, np.ndarray)]


def test_a_clip_is_a_function_of_its_request(model: LatentModel) -> None:
    others = [replace(REQUEST, seed=seed) for seed in range(3)]
    (alone,) = made(model, REQUEST)
    assert (alone.shape, alone.dtype) == ((4, 32, 32), np.uint8)
    np.testing.assert_array_equal(alone, made(model, REQUEST)[0])
    batched = made(model, *others, REQUEST)[3]
    assert np.abs(batched.astype(int) - alone).max() <= 1  # matrix products of another size round differently
    for changed in (replace(REQUEST, seed=1), replace(REQUEST, ef=0.2), replace(REQUEST, conditions={})):
        assert (made(model, changed)[0] != alone).any(), changed
    mixed = made(model, REQUEST, replace(REQUEST, size=48))
    np.testing.assert_array_equal(mixed[0], alone)
    assert mixed[1].shape == (4, 48, 48)


def test_a_velocity_stands_at_the_place_of_its_own_patch() -> None:
    """The patches that go in and those that come out are cut alike: without blocks, each depends on itself only."""
    torch.manual_seed(0)
    net = VelocityNet(replace(SPEC, depth=1))
    net.blocks = torch.nn.ModuleList()
    torch.nn.init.normal_(net.out.weight)
    rest = (torch.tensor([0.5]), torch.arange(4.0)[None], torch.ones(1, 4))
    x = torch.randn(1, 4, 4, 4, 4)
    other = x.clone()
    other[0, 3, :, 1, 2] += 1.0  # second pair of frames, upper right patch
    changed = (net(x, *rest) != net(other, *rest)).any(2)[0]
    expected = torch.zeros(4, 4, 4, dtype=torch.bool)
    expected[2:, :2, 2:] = True
    assert (changed == expected).all()


def test_without_velocity_a_clip_is_its_own_decoded_noise(model: LatentModel) -> None:
    still = replace(model, flow=VelocityNet(SPEC))  # a fresh one gives no velocity
    drawing = torch.Generator().manual_seed(REQUEST.seed)
    own, common = torch.randn(4, 4, 4, 4, generator=drawing), torch.randn(4, 4, 4, generator=drawing)
    noise = 0.1**0.5 * own + 0.9**0.5 * common
    with torch.no_grad():
        frames = (model.vae.decode(noise * 2.0 + 0.5)[:, 0] + 1) * 127.5
    np.testing.assert_array_equal(made(still, REQUEST)[0], frames.round().clamp(0, 255).byte().numpy())


def test_guidance_weighs_the_conditions_against_none_in_motion(model: LatentModel) -> None:
    x, time, seconds = torch.randn(1, 4, 4, 4, 4), torch.tensor([0.7]), torch.arange(4.0)[None] / 16
    wishes = torch.tensor([[60.0, 80.0, math.nan, math.nan]])
    with torch.no_grad():
        with_, without = (model.flow(x, time, seconds, w) for w in (wishes, torch.full((1, 4), math.nan)))
        found = LatentVideo(model, guidance=3.0)._velocity(x, time, seconds, wishes)
        usual = LatentVideo(model)._velocity(x, time, seconds, wishes)
    torch.testing.assert_close(found.mean(1), with_.mean(1))  # the picture
    motion = [values - values.mean(1, keepdim=True) for values in (found, with_, without, usual)]
    torch.testing.assert_close(motion[0], 3.0 * motion[1] - 2.0 * motion[2])
    torch.testing.assert_close(motion[3], 4.0 * motion[1] - 3.0 * motion[2])


def test_lengths_and_rates(model: LatentModel) -> None:
    assert window_starts(4, 4) == [0]
    assert window_starts(9, 4) == [0, 2, 4, 5]
    long = made(model, replace(REQUEST, frames=9))[0]
    assert len(long) == 9
    slow = made(model, replace(REQUEST, frames=3, fps=4.0))[0]  # every fourth frame of a clip at the least rate
    np.testing.assert_array_equal(slow, long[::4])
    short = made(model, replace(REQUEST, frames=2))[0]
    np.testing.assert_array_equal(short, made(model, REQUEST)[0][:2])
    (refused,) = LatentVideo(model).generate([replace(REQUEST, fps=50.0)])
    assert isinstance(refused, ClipError)
    assert "window.fps: got 50, this generator makes at most 32 frames a second" in str(refused)


def test_its_file(model: LatentModel, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    write_latent_model(path, model)
    found = load_latent_model(str(path))
    assert found.spec == SPEC
    for key, value in found.tensors().items():
        torch.testing.assert_close(value, model.tensors()[key].half().float(), rtol=0, atol=0)
    good = load_file(path)

    def refusal(tensors: dict[str, torch.Tensor], spec: object) -> str:
        save_file(tensors, path, None if spec is None else {"spec": json.dumps(spec)})
        with pytest.raises(InputError) as error:
            load_latent_model(str(path))
        assert str(path) in str(error.value)
        return str(error.value)

    spec = asdict(SPEC)
    assert "no file of echodfkd train-generator" in refusal(good, None)
    assert "it has no flow.out.bias" in refusal({k: v for k, v in good.items() if k != "flow.out.bias"}, spec)
    assert "has shape (32,), expected (40,)" in refusal(good, {**spec, "latent_channels": 5})
    assert "spec.depth is 100000" in refusal(good, {**spec, "depth": 100_000})
    assert "spec.width is 16.5, expected a whole number" in refusal(good, {**spec, "width": 16.5})
    assert "spec.width is 0, expected a whole number of at least 1" in refusal(good, {**spec, "width": 0})
    assert "shared is 1, must be at least 0 and below 1" in refusal(good, {**spec, "shared": 1.0})
    assert "spec has" in refusal(good, {"size": 32})
    assert "width of heads" in refusal(good, {**spec, "heads": 3})
    path.write_bytes(b"no tensors")
    with pytest.raises(InputError, match="cannot be read as a safetensors file"):
        load_latent_model(str(path))


def test_the_shipped_generator_makes_hearts_that_beat_as_they_are_asked_to() -> None:
    place = Path(shipped_weights("latent_video"))
    assert place.stat().st_size <= 10_000_000
    card = json.loads(place.with_suffix(".json").read_text())
    shipped = load_latent_model()
    assert asdict(shipped.spec) == card["recipe"]["spec"]
    generator = build_generator(PartConfig(kind="latent_video"), "cpu", "fp32")
    asked = [replace(REQUEST, size=64, frames=16, seed=seed, ef=ef) for ef in (0.2, 0.8) for seed in range(3)]
    clips = np.stack([clip for clip in generator.generate(asked) if isinstance(clip, np.ndarray)])
    teacher = build_teacher(kind="embedded", weights="", device="cpu", batch_frames=16)
    share = (teacher.teach(clips[:1]).masks > 0.5).mean(axis=(0, 2, 3, 4))
    assert ((share > 0.02) & (share < 0.5)).all()  # of the picture, in every frame
    weak, strong = measured_ef(teacher, clips).reshape(2, 3).mean(1)  # of the same noise
    assert strong - weak > 10.0
