"""EchoCLIP's loading, on a small model in the layout that open_clip itself saves; none of it downloads anything.

What open_clip does is tested where it is installed (extra `[judge]`); the refusals everywhere.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from echodfkd.config.sections.judge import EF_PLACE
from echodfkd.core.errors import InputError
from echodfkd.models.judges import echoclip
from echodfkd.models.judges.echoclip import OpenClipTowers, load_towers
from echodfkd.models.judges.reading import ReadingJudge
from echodfkd.models.teachers.torchvision_guard import import_torchvision

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic", "size": [32, 32]}


@pytest.fixture(scope="module")
def open_clip():
    import_torchvision()
    return pytest.importorskip("open_clip")


@pytest.fixture
def folder(tmp_path):
    config = {"model_cfg": SMALL, "preprocess_cfg": PREPROCESS}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    return tmp_path


def save_small(open_clip, folder):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.CLIP(**{"embed_dim": 16, "vision_cfg": SMALL["vision_cfg"], "text_cfg": SMALL["text_cfg"]})
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return model.eval()


def test_a_saved_folder_gives_the_same_embeddings_as_its_own_library(open_clip, folder):
    from PIL import Image

    model = save_small(open_clip, folder)
    towers = load_towers(str(folder), "cpu")
    frames = np.random.default_rng(0).integers(0, 256, (3, 112, 112), dtype=np.uint8)
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    images = torch.stack([preprocess(Image.fromarray(frame)) for frame in frames])
    # Pillow's bicubic works in fixed point: its 8-bit result differs by one level (1 / 255 / 0.26) here and there.
    torch.testing.assert_close(towers.prepare(torch.from_numpy(frames)), images, atol=0.02, rtol=0)
    with torch.inference_mode():
        wanted = nn.functional.normalize(model.encode_image(images), dim=-1)
        captions = nn.functional.normalize(model.encode_text(open_clip.tokenize(["WALL", "NOTHING"])), dim=-1)
        torch.testing.assert_close(towers.embed_frames(torch.from_numpy(frames)), wanted, atol=2e-3, rtol=0)
        torch.testing.assert_close(towers.embed_captions(["WALL", "NOTHING"]), captions)
    from echodfkd.models.judges.build import load_judge

    judge = load_judge("echoclip", weights=str(folder))
    assert judge.judge_id.startswith("echoclip-")
    assert set(judge.score(frames, frames > 200)) >= {"judge_score", "judge_wall"}
    reading = judge.read_video(frames)
    assert reading.cycle.shape == (3,)
    assert 0 <= reading.ef_percent <= 100


def test_damaged_weights_are_refused(open_clip, folder):
    (folder / "open_clip_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"evaluation.judge_weights: local-dir:.* cannot be loaded"):
        load_towers(str(folder), "cpu")
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_towers(str(folder), "cpu")


def fake_open_clip(monkeypatch) -> None:
    """Refusals come before open_clip is asked: any module will do."""
    import sys
    import types

    monkeypatch.setattr(echoclip, "import_torchvision", lambda: None)
    monkeypatch.setitem(sys.modules, "open_clip", types.ModuleType("open_clip"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: None, "holds no weights; expected open_clip_model.safetensors or"),
        (lambda f: (f / "open_clip_config.json").unlink(), "holds no open_clip_config.json"),
        (lambda f: _weights(f, "[]"), "must hold a JSON object, got a list"),
        (lambda f: _weights(f, "{}"), "has no model_cfg"),
        (lambda f: _weights(f, "{"), "is not readable JSON"),
        (
            lambda f: _weights(f, json.dumps({"model_cfg": {"text_cfg": {"hf_model_name": "a/b"}}})),
            "sets hf_model_name: it would download another model",
        ),
    ],
)
def test_a_folder_that_is_none_is_refused(monkeypatch, folder, change, words):
    fake_open_clip(monkeypatch)
    change(folder)
    with pytest.raises(InputError, match=r"evaluation.judge_weights: .*" + words):
        load_towers(str(folder), "cpu")


def _weights(folder, config: str) -> None:
    (folder / "open_clip_model.safetensors").write_bytes(b"")
    (folder / "open_clip_config.json").write_text(config)


def test_without_open_clip_the_extra_is_named(monkeypatch, folder):
    import sys

    monkeypatch.setattr(echoclip, "import_torchvision", lambda: None)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(InputError, match=r"pip install 'echodfkd\[judge\]'"):
        load_towers(str(folder), "cpu")


class MeanGrey(nn.Module):
    """A stand-in network: the image's mean and a constant; a caption by its number."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def encode_image(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.mean((1, 2, 3)), torch.ones(len(x))], dim=1) * self.one

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.stack([tokens[:, 0].float() - 50, torch.full((len(tokens),), 20.0)], dim=1) * self.one


def numbers(captions: list[str]) -> torch.Tensor:
    return torch.tensor([[int(text)] for text in captions])


def towers_of(side: int) -> OpenClipTowers:
    options = {"side": side, "mean": [0.5] * 3, "std": [0.25] * 3, "dtype": torch.float32}
    return OpenClipTowers(MeanGrey(), numbers, **options)


def test_frames_keep_their_middle_and_are_normalised():
    frames = torch.zeros(1, 40, 60, dtype=torch.uint8)
    frames[:, :, 20:40] = 255
    x = towers_of(20).prepare(frames)
    assert x.shape == (1, 3, 20, 20)
    middle = x[0, :, 10, 10]
    torch.testing.assert_close(middle, torch.full((3,), 2.0))  # (1 - 0.5) / 0.25
    torch.testing.assert_close(x[0, :, 10, 0], torch.full((3,), -2.0))
    assert towers_of(40).prepare(torch.zeros(2, 40, 40, dtype=torch.uint8)).shape == (2, 3, 40, 40)


def test_a_reading_follows_the_frames():
    """Captions lie on a circle by their number, frames by their grey: brighter is a higher number."""
    prompts = {"wall": "1", "nothing": "2", "left_ventricle": "3", "valve_closed": "100", "valve_open": "0"}
    judge = ReadingJudge(towers_of(8), judge_id="grey", prompts={**prompts, "ef": [EF_PLACE]}, phase_sign=1)
    dark, bright = np.full((9, 8, 8), 96, np.uint8), np.full((9, 8, 8), 160, np.uint8)
    assert judge.read_video(bright).ef_percent > judge.read_video(dark).ef_percent + 10
    turning = np.concatenate([bright, dark])
    cycle = judge.read_video(turning).cycle
    assert int(np.argmax(cycle)) == 8  # the sum of what is bright ends there


def test_kept_captions_stand_in_for_the_text_tower(open_clip, folder, tmp_path, monkeypatch):
    from echodfkd.models.judges.build import load_judge

    save_small(open_clip, folder)
    store = tmp_path / "captions"
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    plain = load_judge("echoclip", weights=str(folder))
    wanted = plain.score(frames, frames > 200), plain.read_video(frames).ef_percent
    first = load_judge("echoclip", weights=str(folder), captions=str(store))
    assert first._towers.model.transformer is None  # every caption is known: the tower's memory is given back
    files = sorted(store.rglob("*.safetensors"))
    assert [file.parent.name for file in files] == [first.judge_id] * 2  # of masks, and of valve and EF

    def fails(*unused: object) -> None:
        raise AssertionError("the text tower ran")

    with monkeypatch.context() as patch:
        patch.setattr(OpenClipTowers, "_run_text_tower", fails)
        again = load_judge("echoclip", weights=str(folder), captions=str(store))
    for judge in (first, again):
        assert (judge.score(frames, frames > 200), judge.read_video(frames).ef_percent) == wanted
    for damage in (b"no tensors", files[1].read_bytes()):  # cut off or foreign; other captions' file
        files[0].write_bytes(damage)
        mended = load_judge("echoclip", weights=str(folder), captions=str(store))
        assert mended.score(frames, frames > 200) == wanted[0]


def test_bfloat16_on_a_cpu(open_clip, folder):
    save_small(open_clip, folder)
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8))
    towers = {name: load_towers(str(folder), "cpu", precision=name) for name in ("auto", "fp32", "bf16")}
    assert towers["bf16"].model.visual.conv1.weight.dtype == torch.bfloat16
    with torch.inference_mode():
        found = {name: tower.embed_frames(frames) for name, tower in towers.items()}
    assert torch.equal(found["auto"], found["fp32"])
    assert found["bf16"].dtype == torch.float32
    # One layer of width 32: each product keeps 8 bits, so that a unit vector is off by about 2^-8.
    assert (1 - (found["fp32"] * found["bf16"]).sum(1)).abs().max() < 2**-8
