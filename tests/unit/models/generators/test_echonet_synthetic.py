"""EchoNet-Synthetic in its published files, against diffusers' own classes and the authors' sampling loop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.generators.echonet_synthetic import (
    HOME,
    LatentVideoGenerator,
    count_windows,
    load_echonet_synthetic,
    predict_windows,
)
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.models.generators.schedulers import Sampling
from echodfkd.models.generators.weight_files import load_network
from tests.helpers.generators import WINDOW, write_echonet_synthetic

FAST = Sampling(steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_echonet_synthetic(tmp_path_factory.mktemp("echonet_synthetic"))


@pytest.fixture(scope="module")
def generator(folder: Path) -> LatentVideoGenerator:
    return load_echonet_synthetic(str(folder), FAST)


def request(place: int, frames: int = WINDOW, **changes: Any) -> ClipRequest:
    asked = ClipRequest(f"clip-{place}", 1000 + place, frames=frames, fps=32.0, size=56, ef=0.1 + 0.1 * (place % 9))
    return replace(asked, **changes)


class TellsFractions(nn.Module):
    """A stand-in for the video network: its output is the ejection fraction that each window was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(addition_time_embed_dim=1)

    def forward(self, x: torch.Tensor, time: Any, *, encoder_hidden_states: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(sample=encoder_hidden_states[:, :, :, None, None].expand(-1, *x.shape[1:]))


def authors_windows(network: nn.Module, x: torch.Tensor, ef: torch.Tensor, time: Any, window: int) -> torch.Tensor:
    """Windows as the published sampler orders them: stacked window by window, fractions repeated clip by clip."""
    half = window // 2
    R = (x.shape[2] - window) // half + 1
    inputs = torch.cat([x.transpose(1, 2)[:, r * half : r * half + window] for r in range(R)])
    output = network(inputs, time, encoder_hidden_states=ef[:, None, None].repeat_interleave(R, dim=0)).sample
    parts = torch.chunk(output, R)
    return torch.cat([part if r == 0 else part[:, half:] for r, part in enumerate(parts)], dim=1).transpose(1, 2)


@pytest.mark.parametrize(("clips", "authors_share"), [(1, 1.0), (2, 0.6), (4, 0.4), (8, 0.2)])
def test_every_clip_keeps_its_own_ejection_fraction_over_five_windows(clips: int, authors_share: float) -> None:
    ef, half = torch.linspace(0.1, 0.9, clips), WINDOW // 2
    x = torch.zeros(clips, 2, WINDOW + 4 * half, 4, 4)

    def kept(windows: Callable[..., torch.Tensor]) -> float:
        told = windows(TellsFractions(), x, ef, torch.tensor(0), WINDOW)
        assert told.shape == x.shape
        one_frame_a_window = told[:, 0, half::half, 0, 0]
        assert one_frame_a_window.shape == (clips, 5)
        return float((one_frame_a_window == ef[:, None]).float().mean())

    assert kept(predict_windows) == 1.0
    assert kept(authors_windows) == pytest.approx(authors_share)


def test_windows_are_halves_over_one_another_and_the_first_is_whole() -> None:
    assert [count_windows(n, 64) for n in (1, 64, 65, 96, 97, 192)] == [1, 1, 2, 2, 3, 5]


def authors_clip(folder: Path, asked: ClipRequest, steps: int) -> np.ndarray:
    """The published samplers of frame and video, for one clip of one window, on diffusers' own loaders."""
    import diffusers

    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval()
    lidm = diffusers.UNet2DModel.from_pretrained(folder / "lidm_dynamic").eval()
    lvdm = diffusers.UNetSpatioTemporalConditionModel.from_pretrained(folder / "lvdm").eval()
    noise = torch.Generator().manual_seed(asked.seed)
    settings = {"prediction_type": "v_prediction", "clip_sample_range": 4.0}
    edges = (0, 1, 0, 1)  # 7 to 8

    def run(shape: tuple[int, ...], call: Callable[..., torch.Tensor]) -> torch.Tensor:
        scheduler = diffusers.DDPMScheduler(**settings)
        scheduler.set_timesteps(steps)
        x = torch.randn((1, *shape), generator=noise)
        for t in scheduler.timesteps:
            x = scheduler.step(call(x, t), t, x, generator=noise).prev_sample
        return x

    def frame_call(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return lidm(torch.nn.functional.pad(x, edges, mode="replicate"), t).sample[..., :7, :7]

    with torch.no_grad():
        frame = run((4, 7, 7), frame_call)

        def video_call(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            x = torch.cat([x, frame[:, :, None].repeat(1, 1, WINDOW, 1, 1)], dim=1)
            x = torch.nn.functional.pad(x, (*edges, 0, 0), mode="replicate").transpose(1, 2)
            ef = torch.tensor(asked.ef)[None, None, None]
            output = lvdm(x, t, encoder_hidden_states=ef, added_time_ids=torch.zeros(1, 1)).sample
            return output.transpose(1, 2)[..., :7, :7]

        latents = run((4, WINDOW, 7, 7), video_call)[0].transpose(0, 1)
        video = (vae.decode(latents / vae.config.scaling_factor).sample.mean(1) + 1) * 128
    return video.clamp(0, 255).to(torch.uint8).numpy()


def test_one_clip_is_that_of_the_authors_loop(folder: Path, generator: LatentVideoGenerator) -> None:
    [clip] = generator.generate([request(3)])
    assert isinstance(clip, np.ndarray)
    assert clip.shape == (WINDOW, 56, 56)
    assert clip.std() > 1
    difference = np.abs(clip.astype(int) - authors_clip(folder, request(3), steps=2))
    assert difference.max() <= 1  # one level: sums in another order, then the fraction is dropped


def test_a_clip_is_the_same_alone_and_among_eight(generator: LatentVideoGenerator) -> None:
    asked = [request(place, frames=WINDOW + 1) for place in range(8)]
    together = generator.generate(asked)
    for place in (0, 5):
        [alone] = generator.generate([asked[place]])
        difference = np.abs(alone.astype(int) - together[place].astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01
    assert np.abs(together[0].astype(int) - together[5].astype(int)).mean() > 1


def test_ejection_fraction_frames_rate_and_size_are_obeyed(generator: LatentVideoGenerator) -> None:
    base = request(1)
    other_ef, half_rate, small = generator.generate(
        [replace(base, ef=0.9), replace(base, fps=16.0, frames=2), replace(base, size=28, frames=3)]
    )
    [clip] = generator.generate([base])
    assert (other_ef != clip).any()
    assert half_rate.shape == (2, 56, 56)
    assert np.abs(half_rate.astype(int) - clip[::2]).max() <= 1
    assert small.shape == (3, 28, 28)
    first, second = generator.generate([replace(base, ef=None)] * 2)
    assert np.abs(first.astype(int) - second).max() <= 1  # one that is not asked for is drawn from the clip's seed


@pytest.mark.parametrize(
    ("scheduler", "precision"),
    [
        ("dpm_solver", "bf16"),
        pytest.param("ddim", "fp32", marks=pytest.mark.slow),
        pytest.param("unipc", "fp32", marks=pytest.mark.slow),
    ],
)
def test_other_samplers_and_bf16_make_clips(folder: Path, scheduler: str, precision: str) -> None:
    sampling = Sampling(scheduler=scheduler, steps=2, precision=precision)
    made = load_echonet_synthetic(str(folder), sampling)
    [clip] = made.generate([request(0)])
    assert isinstance(clip, np.ndarray)
    assert clip.std() > 1


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (Sampling(scheduler="flow_euler"), "source.generator.scheduler: got flow_euler, this network predicts v_pred"),
        (Sampling(steps=2000), "source.generator.steps: got 2000, the network knows 1000 times"),
    ],
)
def test_a_sampler_that_does_not_fit_is_refused_when_the_files_are_read(
    folder: Path, sampling: Sampling, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        load_echonet_synthetic(str(folder), sampling)


@pytest.mark.parametrize("name", ["lvdm/diffusion_pytorch_model.safetensors"])
def test_a_missing_file_is_named_with_its_home_and_option(folder: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / name).unlink()
    with pytest.raises(InputError) as caught:
        load_echonet_synthetic(str(copy), FAST)
    for part in ("source.generator.weights", Path(name).name, "https://huggingface.co/HReynaud/EchoNet-Synthetic"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "os.system"}, "_class_name is 'os.system', expected UNetSpatioTemporalConditionModel"),
        ({"auto_map": "x.py"}, "'auto_map' is no setting of UNetSpatioTemporalConditionModel"),
        ({"layers_per_block": 10**6}, "layers_per_block is 1000000, expected"),
        ({"block_out_channels": [32] * 100}, "block_out_channels is .* a list of at most 16"),
        ({"down_block_types": ["../x"] * 4}, "down_block_types is '../x', expected one word"),
        ({"down_block_types": ["NoBlock"] * 4}, "refuses these settings: NoBlock"),
        ({"block_out_channels": [64, 64, 64, 64]}, "does not fit the network: .* has shape"),
        ({"num_frames": 4.0}, "num_frames is 4.0, expected a word, a whole number"),
        ({"num_frames": -4}, "num_frames is -4, expected"),
    ],
)
def test_a_config_that_no_author_wrote_is_refused_in_one_sentence(
    folder: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    copy = Path(shutil.copytree(folder / "lvdm", tmp_path / "lvdm"))
    change_json(copy / "config.json", changes)
    with pytest.raises(InputError, match=words):
        load_network(PublishedFiles(copy, HOME), "UNetSpatioTemporalConditionModel")


def change_json(place: Path, changes: dict[str, Any]) -> None:
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))


def test_networks_of_different_latents_or_odd_windows_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for changes, words in (({"sample_size": 8}, "on a side of 8"), ({"num_frames": 3}, "windows of 3 frames")):
        change_json(copy / "lvdm" / "config.json", changes)
        with pytest.raises(InputError, match=words):
            load_echonet_synthetic(str(copy), FAST)


def test_damaged_weights_and_a_strange_noise_schedule_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    yaml = copy / "lidm_dynamic" / "config.yaml"
    text = yaml.read_text()
    yaml.write_text(text.replace("v_prediction", "guess"))
    with pytest.raises(InputError, match="prediction_type is 'guess', allowed are epsilon"):
        load_echonet_synthetic(str(copy), FAST)
    yaml.unlink()
    assert "has no config.yaml" in load_echonet_synthetic(str(copy), FAST).notes[0]
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="is no safetensors file"):
        load_echonet_synthetic(str(copy), FAST)
