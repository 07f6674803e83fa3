"""Free-Echo in its published files: the network by its parts, the sampler on a denoiser that is known exactly."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.core.errors import ClipError, ConfigError, InputError
from echodfkd.models.generators import free_echo
from echodfkd.models.generators.free_echo import (
    FreeEcho,
    cone_of,
    load_free_echo,
    match_levels,
    noise_levels,
)
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.models.generators.schedulers import Sampling
from echodfkd.models.generators.video_unet import HEAD_WIDTH, HEADS, VideoUNet
from tests.helpers.generators import randomise, write_free_echo


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of 4 frames of 32 x 32 in place of 16 of 128 x 128."""
    monkeypatch.setattr(free_echo, "SIDE", 32)
    monkeypatch.setattr(free_echo, "FRAMES", 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_free_echo(tmp_path_factory.mktemp("free_echo"))


def request(place: int = 0, **changes: Any) -> ClipRequest:
    labels = np.zeros((64, 64), np.uint8)
    labels[10:40, 20:44], labels[14:36, 24:40] = 2, 1
    labels[40:56, 24:40] = 3
    return replace(ClipRequest(f"clip-{place}", 7 + place, frames=4, fps=50.0, size=32, label_map=labels), **changes)


PUBLISHED = {
    "time_rel_pos_bias.relative_attention_bias.weight": (32, 8),
    "init_conv.weight": (32, 8, 1, 7, 7),
    "init_temporal_attn.fn.norm.gamma": (1, 32, 1, 1, 1),
    "init_temporal_attn.fn.fn.fn.rotary_emb.freqs": (16,),
    "init_temporal_attn.fn.fn.fn.to_qkv.weight": (768, 32),
    "time_mlp.1.weight": (128, 32),
    "time_mlp.3.bias": (128,),
    "semantic_map_embedding.init_conv.weight": (64, 5, 1, 1, 1),
    "semantic_map_embedding.init_temporal_attn.fn.fn.fn.to_qkv.weight": (384, 64),
    "downs.0.0.mlp.1.weight": (64, 128),
    "downs.1.0.res_conv.weight": (64, 32, 1, 1, 1),
    "downs.1.1.block2.proj.weight": (64, 64, 1, 3, 3),
    "downs.1.2.fn.fn.to_out.bias": (64,),
    "downs.1.3.fn.fn.fn.to_out.weight": (64, 256),
    "downs.1.4.weight": (64, 64, 1, 4, 4),
    "mid_spatial_attn.fn.fn.fn.to_qkv.weight": (768, 128),
    "ups.0.0.block1.proj.weight": (64, 256, 1, 3, 3),
    "ups.1.4.weight": (32, 32, 1, 4, 4),
    "ups.2.2.fn.norm.gamma": (1, 32, 1, 1, 1),
    "final_conv.0.block1.norm.weight": (32,),
    "final_conv.0.res_conv.weight": (32, 64, 1, 1, 1),
    "final_conv.1.weight": (3, 32, 1, 1, 1),
}
"""Names and shapes that follow from the authors' class with dim=32 and dim_mults=(1, 2, 4)."""


def test_names_and_shapes_of_the_published_network() -> None:
    with torch.device("meta"):
        found = {key: tuple(value.shape) for key, value in VideoUNet(32).state_dict().items()}
    assert {key: found.get(key) for key in PUBLISHED} == PUBLISHED
    assert not any(key.startswith(("downs.2.4", "ups.2.4", "mid_spatial_attn.fn.fn.fn.rotary")) for key in found)


def turned(lines: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
    """Rotary positions by matrices: the pair of values k of frame t is turned by the angle t * rates[k]."""
    found = lines.clone()
    for t, k in itertools.product(range(lines.shape[-2]), range(len(rates))):
        cos, sin = math.cos(t * rates[k]), math.sin(t * rates[k])
        found[..., t, 2 * k : 2 * k + 2] = lines[..., t, 2 * k : 2 * k + 2] @ torch.tensor([[cos, sin], [-sin, cos]])
    return found


def test_attention_along_time_is_rotary_with_a_bias_by_distance() -> None:
    torch.manual_seed(1)
    network = randomise(VideoUNet(16)).requires_grad_(False)
    layer: Any = network.init_temporal_attn.fn.fn.fn
    x, bias = torch.randn(1, 16, 5, 1, 1), network._time_bias(5, torch.device("cpu"))
    table = network.time_rel_pos_bias.relative_attention_bias.weight
    assert torch.equal(bias[:, 3, 1], table[2])  # two frames back
    assert torch.equal(bias[:, 1, 3], table[18])  # two frames on
    line = x[0, :, :, 0, 0].T
    q, k, v = (
        part.view(5, HEADS, HEAD_WIDTH).transpose(0, 1) for part in (line @ layer.to_qkv.weight.T).chunk(3, dim=1)
    )
    q, k = turned(q, layer.rotary_emb.freqs), turned(k, layer.rotary_emb.freqs)
    weights = (q @ k.transpose(-1, -2) / math.sqrt(HEAD_WIDTH) + bias).softmax(-1)
    expected = (weights @ v).transpose(0, 1).flatten(1) @ layer.to_out.weight.T
    assert torch.allclose(layer(x, bias)[0, :, :, 0, 0].T, expected, atol=1e-5)


def test_linear_attention_within_a_frame_sums_over_its_pixels() -> None:
    torch.manual_seed(2)
    layer: Any = randomise(VideoUNet(16)).requires_grad_(False).downs[0][2].fn.fn
    x = torch.randn(1, 16, 2, 3, 3)
    for t in range(2):
        q, k, v = F.conv2d(x[:, :, t], layer.to_qkv.weight).view(3, HEADS, HEAD_WIDTH, 9)
        q, k = q.softmax(1) / math.sqrt(HEAD_WIDTH), k.softmax(2)
        context = torch.einsum("hdn,hen->hde", k, v)
        out = torch.einsum("hde,hdn->hen", context, q).reshape(1, -1, 3, 3)
        expected = F.conv2d(out, layer.to_out.weight, layer.to_out.bias)
        assert torch.allclose(layer(x)[:, :, t], expected, atol=1e-5)


class KnownDenoiser(nn.Module):
    """A stand-in for the network: exact for clips whose every pixel is normal around 0 with the data's spread.

    The best estimate without noise is then ``x * 0.25 / (0.25 + sigma^2)``: the preconditioning's own first part, so
    that the network has nothing to add.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[float] = []

    def forward(self, x: torch.Tensor, log_noise: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        self.calls.append(math.exp(4 * float(log_noise[0])))
        assert abs(float(x.std()) - 1) < 0.1 or self.calls[-1] < 1
        return torch.zeros_like(x)


def test_the_sampler_draws_from_a_distribution_that_is_known() -> None:
    network: Any = KnownDenoiser()
    maker = FreeEcho(network, torch.rand(64, 64), cone_in_map=False, sampling=Sampling(steps=32))
    [clip] = maker._make([request()])
    assert float((clip / 127.5 - 1).std()) == pytest.approx(0.5 / math.sqrt(3), rel=0.1)  # a mean of three channels
    sigmas = noise_levels(32)
    first = round(15 / 64 * 32)
    assert network.calls[0] == pytest.approx(sigmas[first] * math.sqrt(2), rel=1e-5)
    assert len(network.calls) == 2 * (32 - first) - 1  # the last step has one call


def test_noise_levels_are_those_of_karras() -> None:
    levels = noise_levels(64)
    assert levels[0] == pytest.approx(80)
    assert levels[15] == pytest.approx(18.98, rel=1e-3)
    assert levels[63] == pytest.approx(0.002)
    assert levels[64] == 0


def test_grey_levels_of_the_reference_are_taken_in_their_order() -> None:
    source = torch.tensor([[0.0, 0.2], [0.5, 1.0]]).repeat_interleave(16, 0).repeat_interleave(16, 1)
    reference = torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) * 0.3
    matched = match_levels(source, reference)
    steps = [float(matched[r, c]) for r, c in ((0, 0), (0, 20), (20, 0), (20, 20))]
    assert steps == sorted(steps)
    assert matched.max() <= reference.max()
    assert abs(float(matched.mean() - reference.mean())) < 0.02
    assert torch.allclose(match_levels(reference, reference).mean(), reference.mean(), atol=0.01)


def test_the_picture_shows_cone_wall_and_chambers(folder: Path) -> None:
    maker = load_free_echo(str(folder), Sampling(steps=2))
    picture = maker.picture(request())
    ventricle, wall, atrium, tissue, outside = (
        float(picture[r, c]) for r, c in ((12, 16), (7, 11), (24, 16), (28, 10), (1, 1))
    )
    assert outside < ventricle + 1e-6
    assert ventricle < atrium < tissue < wall


def test_the_map_of_end_diastole_is_taken(folder: Path) -> None:
    maker, single = load_free_echo(str(folder), Sampling(steps=2)), request().label_map
    assert single is not None
    smaller = np.where((single == 1) & (np.arange(64)[:, None] > 24), 2, single)
    of_all = maker.picture(request(label_map=np.stack([smaller, single, smaller])))
    assert torch.equal(of_all, maker.picture(request()))
    assert not torch.equal(of_all, maker.picture(request(label_map=smaller)))


def test_clips_follow_their_map_and_no_neighbour(folder: Path) -> None:
    maker = load_free_echo(str(folder), Sampling(steps=3))
    asked = [request(place) for place in range(3)]
    together = maker.generate(asked)
    moved = replace(asked[2], label_map=np.roll(request().label_map, 12, axis=0))
    [alone], [other] = maker.generate([asked[2]]), maker.generate([moved])
    assert isinstance(alone, np.ndarray)
    assert alone.shape == (4, 32, 32)
    assert alone.std() > 1
    assert np.abs(alone.astype(int) - together[2].astype(int)).max() <= 1
    assert (other != alone).any()
    long, empty = maker.generate([replace(asked[0], frames=5), replace(asked[0], label_map=None)])
    assert isinstance(long, ClipError)
    assert "Free-Echo makes 4" in str(long)
    assert isinstance(empty, ClipError)


def test_the_camus_network_is_shown_the_cone(tmp_path: Path) -> None:
    maker = load_free_echo(str(write_free_echo(tmp_path, "camus")), Sampling(steps=2))
    seen: list[torch.Tensor] = []
    network = maker._network
    maker._network = lambda x, noise, maps: (seen.append(maps), network(x, noise, maps))[1]
    maker.generate([request()])
    assert torch.equal(seen[0][0] == 1, maker._cone)
    assert 0.3 < float(maker._cone.float().mean()) < 0.8
    assert not cone_of(torch.zeros(8, 8)).any()


def test_what_cannot_be_used_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got ddim; Free-Echo has its own"):
        load_free_echo(str(folder), Sampling(scheduler="ddim"))
    with pytest.raises(InputError, match=r"lacks weights/echonet_model.pt or .* https://github.com/gungui98/echo-free"):
        load_free_echo(str(tmp_path), Sampling())
    copy = write_free_echo(tmp_path / "copy")
    (copy / "images" / "echonet.png").write_bytes(b"GIF89a")
    with pytest.raises(InputError, match="is no readable PNG file"):
        load_free_echo(str(copy), Sampling())
    torch.save({"ema": {"x": torch.zeros(3)}}, copy / "weights" / "echonet_model.pt")
    (copy / "images" / "echonet.png").write_bytes((folder / "images" / "echonet.png").read_bytes())
    with pytest.raises(InputError, match=r"no init_conv.bias"):
        load_free_echo(str(copy), Sampling())
