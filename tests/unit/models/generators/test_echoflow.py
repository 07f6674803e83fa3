"""EchoFlow and EchoLVFM in their published files, against diffusers' own classes and plain loops."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from echodfkd.core.errors import ClipError, ConfigError, InputError
from echodfkd.models.generators.echoflow import VIEWS, load_echoflow, ventricle_mask
from echodfkd.models.generators.echolvfm import euler, load_echolvfm, mean_flow, midpoint
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.models.generators.schedulers import Sampling
from echodfkd.models.generators.stdit import SpaceTimeTransformer
from tests.helpers.generators import STDIT, randomise, write_echoflow, write_echolvfm

FAST = Sampling(steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_echoflow(tmp_path_factory.mktemp("echoflow"))


def heart(top: int = 8) -> np.ndarray:
    labels = np.zeros((32, 32), np.uint8)
    labels[top : top + 12, 10:20] = 1
    labels[top + 12 : top + 18, 10:20] = 3
    return labels


def request(place: int = 0, **changes: Any) -> ClipRequest:
    asked = ClipRequest(
        f"clip-{place}", 50 + place, frames=4, fps=32.0, size=32, ef=0.3 + 0.05 * place, label_map=heart(4 + place)
    )
    return replace(asked, **changes)


def plain_video_network(network: SpaceTimeTransformer, x: torch.Tensor, time: float, ef: float) -> torch.Tensor:
    """The published transformer for one clip, patch by patch, with torch's own attention."""
    w = dict(network.model.named_parameters()) | dict(network.model.named_buffers())
    heads, D = STDIT["num_heads"], STDIT["hidden_size"]

    def attention(prefix: str, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        layer = nn.MultiheadAttention(D, heads, batch_first=True)
        if f"{prefix}.qkv.weight" in w:
            weight, bias = w[f"{prefix}.qkv.weight"], w[f"{prefix}.qkv.bias"]
        else:
            weight = torch.cat([w[f"{prefix}.q_linear.weight"], w[f"{prefix}.kv_linear.weight"]])
            bias = torch.cat([w[f"{prefix}.q_linear.bias"], w[f"{prefix}.kv_linear.bias"]])
        proj = {"out_proj.weight": w[f"{prefix}.proj.weight"], "out_proj.bias": w[f"{prefix}.proj.bias"]}
        layer.load_state_dict({"in_proj_weight": weight, "in_proj_bias": bias, **proj})
        return layer(q[None], kv[None], kv[None])[0][0]

    def linear(prefix: str, values: torch.Tensor) -> torch.Tensor:
        return values @ w[f"{prefix}.weight"].T + w[f"{prefix}.bias"]

    def mlp(prefix: str, values: torch.Tensor) -> torch.Tensor:
        return linear(f"{prefix}.fc2", F.gelu(linear(f"{prefix}.fc1", values), approximate="tanh"))

    def norm(values: torch.Tensor) -> torch.Tensor:
        return (values - values.mean(-1, keepdim=True)) / (values.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()

    T, S = 4, 16
    patches = [
        (F.conv3d(x[None], w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=(1, 2, 2))[0, :, t])
        .flatten(1)
        .T
        for t in range(T)
    ]
    tokens = torch.stack([frame + w["pos_embed"][0] for frame in patches])  # (T, S, D)
    angles = time * 10_000 ** (-torch.arange(128) / 128)
    waves = torch.cat([angles.cos(), angles.sin()])
    moment = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", waves)))
    modulation = linear("t_block.1", F.silu(moment)).view(6, D)
    caption = mlp("y_embedder.y_proj", torch.tensor([[ef]]))
    for b in range(STDIT["depth"]):
        s1, c1, g1, s2, c2, g2 = w[f"blocks.{b}.scale_shift_table"] + modulation
        for t in range(T):
            modulated = norm(tokens[t]) * (1 + c1) + s1
            tokens[t] = tokens[t] + g1 * attention(f"blocks.{b}.attn", modulated, modulated)
        for s in range(S):
            line = tokens[:, s] + (w["pos_embed_temporal"][0] if b == 0 else 0)
            tokens[:, s] = tokens[:, s] + g1 * attention(f"blocks.{b}.attn_temp", line, line)
        flat = tokens.reshape(-1, D)
        flat = flat + attention(f"blocks.{b}.cross_attn", flat, caption)
        flat = flat + g2 * mlp(f"blocks.{b}.mlp", norm(flat) * (1 + c2) + s2)
        tokens = flat.view(T, S, D)
    shift, scale = w["final_layer.scale_shift_table"] + moment
    last = linear("final_layer.linear", norm(tokens) * (1 + scale) + shift)
    video = torch.zeros(4, T, 8, 8)
    for t in range(T):
        for s in range(S):
            r, c = 2 * (s // 4), 2 * (s % 4)
            video[:, t, r : r + 2, c : c + 2] = last[t, s].view(2, 2, 4).permute(2, 0, 1)
    return video


def test_the_video_network_is_the_published_transformer() -> None:
    torch.manual_seed(0)
    network = SpaceTimeTransformer(**STDIT).requires_grad_(False)
    randomise(network)
    x, times, fractions = torch.randn(2, 8, 4, 8, 8), torch.tensor([0.3, 0.9]), torch.tensor([[[0.2]], [[0.7]]])
    found = network(x, times, fractions)
    for place in range(2):
        expected = plain_video_network(network, x[place], float(times[place]), float(fractions[place]))
        assert torch.allclose(found[place], expected, atol=1e-4)


def euler_clip(folder: Path, asked: ClipRequest, steps: int) -> np.ndarray:
    """Both flows of one clip by plain Euler steps from time 1 to 0."""
    import diffusers

    def tensors(part: str) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        return load_file(folder / part / "diffusion_pytorch_model.safetensors")

    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae" / "avae-4f4").eval()
    settings = json.loads((folder / "lifm/tiny-4f4/config.json").read_text())
    frames = diffusers.DiTTransformer2DModel(**{k: v for k, v in settings.items() if not k.startswith("_")}).eval()
    frames.load_state_dict(tensors("lifm/tiny-4f4"))
    videos = SpaceTimeTransformer(**STDIT)
    videos.load_state_dict(tensors("lvfm/tiny-4f4"))
    noise = torch.Generator().manual_seed(asked.seed)
    mask = ventricle_mask(asked, 8)[None]
    with torch.no_grad():
        z = torch.randn((1, 4, 8, 8), generator=noise)
        for step in range(steps):
            t = torch.tensor([1 - step / steps])
            z = z - frames(torch.cat([z, mask], 1), t, class_labels=torch.tensor([0])).sample / steps
        video = torch.randn((1, 4, 4, 8, 8), generator=noise)
        for step in range(steps):
            x = torch.cat([video, z[:, :, None].expand(-1, -1, 4, -1, -1)], dim=1)
            video = video - videos(x, torch.tensor([1 - step / steps]), torch.tensor([[[asked.ef]]])) / steps
        scaling = torch.load(folder / "scaling.pt")
        raw = video[0].transpose(0, 1) * scaling["std"].view(1, 4, 1, 1) + scaling["mean"].view(1, 4, 1, 1)
        return ((vae.decode(raw).sample.mean(1) + 1) * 128).clamp(0, 255).to(torch.uint8).numpy()


def test_one_clip_is_that_of_euler_steps(folder: Path) -> None:
    [clip] = load_echoflow(str(folder), Sampling(steps=3)).generate([request()])
    assert isinstance(clip, np.ndarray)
    assert clip.std() > 1
    assert np.abs(clip.astype(int) - euler_clip(folder, request(), 3)).max() <= 1


def test_a_clip_follows_its_mask_view_and_fraction_and_no_neighbour(folder: Path) -> None:
    generator = load_echoflow(str(folder), FAST)
    asked = [request(place) for place in range(8)]
    together = generator.generate(asked)
    [alone] = generator.generate([asked[6]])
    assert np.abs(alone.astype(int) - together[6].astype(int)).max() <= 1
    base = asked[0]
    other_mask, other_view, other_ef, unknown, long, empty = generator.generate(
        [
            replace(base, label_map=heart(16)),
            replace(base, conditions={"view": "PLAX"}),
            replace(base, ef=0.9),
            replace(base, conditions={"view": "A2C"}),
            replace(base, frames=5),
            replace(base, label_map=np.zeros((32, 32), np.uint8)),
        ]
    )
    for changed in (other_mask, other_view, other_ef):
        assert (changed != together[0]).any()
    for fault, words in ((unknown, "A4C, PSAX, PLAX"), (long, "needs 5 frames"), (empty, "no left ventricle")):
        assert isinstance(fault, ClipError)
        assert words in str(fault)
    assert VIEWS == ("A4C", "PSAX", "PLAX")


def test_what_is_missing_or_double_in_echoflow_is_said(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    shutil.copytree(copy / "lvfm" / "tiny-4f4", copy / "lvfm" / "second")
    with pytest.raises(InputError, match="one folder that does; found second, tiny-4f4"):
        load_echoflow(str(copy), FAST)
    shutil.rmtree(copy / "lvfm")
    with pytest.raises(InputError, match=r"found none\. It is published at https://huggingface.co/HReynaud/EchoFlow"):
        load_echoflow(str(copy), FAST)
    torch.save({"mean": torch.zeros(4), "std": torch.zeros(4)}, copy / "scaling.pt")
    with pytest.raises(InputError, match=r"must hold mean and std of 4 latent channels"):
        load_echoflow(str(copy), FAST)
    (copy / "scaling.pt").unlink()
    with pytest.raises(InputError, match=r"lacks vae/avae-4f4/scaling.pt or vae/scaling.pt or scaling.pt"):
        load_echoflow(str(copy), FAST)


def test_steps_of_the_flows_reach_the_end_of_a_known_field() -> None:
    """A field dx/dt = t (noise at 0) ends 1/2 higher; the mean flow subtracts its one answer."""
    noise = torch.zeros(1)
    assert float(midpoint(lambda x, t, _: torch.tensor([t]), noise, 4)) == pytest.approx(0.5)
    assert float(euler(lambda x, t, _: torch.tensor([t]), noise, 4)) == pytest.approx(0.375)
    seen: list[tuple[float, float]] = []

    def answer(x: torch.Tensor, time: float, second: float) -> torch.Tensor:
        seen.append((time, second))
        return torch.ones(1)

    assert float(mean_flow(answer, noise, 1)) == -1
    assert float(mean_flow(answer, noise, 2)) == -1
    assert seen == [(1.0, 1.0), (1.0, 0.0), (0.5, 0.0)]


@pytest.mark.parametrize("flow", ["mean", pytest.param("linear", marks=pytest.mark.slow)])
def test_echolvfm_makes_a_clip_in_the_published_steps(flow: str, tmp_path: Path) -> None:
    folder = write_echolvfm(tmp_path, flow)
    generator = load_echolvfm(str(folder), Sampling(steps=0 if flow == "mean" else 2))
    asked = [request(place, frames=5) for place in range(3)]
    together = generator.generate(asked)
    [alone], [shorter], [other] = (
        generator.generate([one]) for one in (asked[2], replace(asked[2], frames=3), replace(asked[2], ef=0.9))
    )
    assert alone.shape == (5, 32, 32)
    assert alone.std() > 1
    assert np.abs(alone.astype(int) - together[2].astype(int)).max() <= 1
    assert (shorter != alone[:3]).any()  # the network is told where the clip ends
    assert (other != alone).any()
    [long] = generator.generate([replace(asked[0], frames=7)])
    assert isinstance(long, ClipError)
    with pytest.raises(ConfigError, match="got ddim, EchoLVFM has steps of its own"):
        load_echolvfm(str(folder), Sampling(scheduler="ddim"))


def test_only_the_mean_flow_reads_the_second_time(tmp_path: Path) -> None:
    answers = {}
    for flow in ("mean", "linear"):
        network: Any = load_echolvfm(str(write_echolvfm(tmp_path / flow, flow)), FAST)._videos
        x, when, ef = torch.randn(1, 6, 9, 8, 8), torch.ones(1), torch.full((1, 1, 1), 0.5)
        now, then = (
            network(x, when, encoder_hidden_states=ef, added_time_ids=torch.full((1, 1), second)).sample
            for second in (0.0, 1.0)
        )
        answers[flow] = float((now - then).abs().max())
    assert answers["linear"] == 0
    assert answers["mean"] > 1e-4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"flow": {"type": "guess"}}, "flow.type .mean or linear., got 'guess'"),
        ({"model": {"kwargs": {"activation": "x"}}}, "activation is missing, not known here, or out of bounds"),
        ({"model": {"init": {"num_frames": 10**9}}}, "num_frames is missing, not known here, or out of bounds"),
    ],
)
def test_a_strange_config_of_echolvfm_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    place = write_echolvfm(tmp_path, "mean") / "echolvfm_h2" / "config.yaml"
    config = yaml.safe_load(place.read_text())
    for section, values in change.items():
        for name, value in values.items():
            config[section][name] = value if isinstance(value, str) else config[section][name] | value
    place.write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=words):
        load_echolvfm(str(tmp_path), FAST)
