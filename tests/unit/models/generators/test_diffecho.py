"""DiffEcho's folders against diffusers' own pipeline, and stills that move as their maps."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echodfkd.core.errors import ClipError, InputError
from echodfkd.models.generators.diffecho import load_diffecho, map_picture, prompt_of
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.models.generators.schedulers import Sampling
from echodfkd.models.generators.still_motion import move_still
from echodfkd.models.generators.weight_files import import_diffusers
from tests.helpers.generators import STILL_SIDE, write_diffecho

SIDE = 8 * STILL_SIDE
FAST = Sampling(steps=2)


def heart(shrink: float = 1.0, drop: int = 0) -> np.ndarray:
    """A map of a cavity inside a wall, ellipses, smaller by ``shrink`` and lower by ``drop`` rows."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    far = np.hypot((rows - 30 - drop) / 18, (columns - 32) / 11)
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[far < 1.3 * (0.5 + 0.5 * shrink)] = 2
    labels[far < shrink] = 1
    return labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_diffecho(tmp_path_factory.mktemp("diffecho"), control=True)


def request(place: int = 0, **changes: Any) -> ClipRequest:
    return replace(ClipRequest(f"clip-{place}", place, frames=1, fps=32.0, size=SIDE, label_map=heart()), **changes)


def pipeline_still(folder: Path, asked: ClipRequest) -> np.ndarray:
    """The still of diffusers' own ControlNet pipeline, on diffusers' and transformers' own loaders."""
    diffusers, transformers = import_diffusers(), importlib.import_module("transformers")
    schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    scheduler = diffusers.UniPCMultistepScheduler.from_config(schedule, timestep_spacing="trailing", steps_offset=0)
    vocab = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    merges = [tuple(line.split()) for line in (folder / "tokenizer" / "merges.txt").read_text().splitlines()[1:]]
    pipe = diffusers.StableDiffusionControlNetPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=transformers.CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=transformers.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77),
        unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        controlnet=diffusers.ControlNetModel.from_pretrained(folder / "controlnet"),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn((1, 4, STILL_SIDE, STILL_SIDE), generator=torch.Generator().manual_seed(asked.seed))
    latents = pipe(
        "an ultrasound image of heart in four-chamber view",
        image=map_picture(asked, SIDE)[None],
        num_inference_steps=2,
        latents=noise,
        output_type="latent",
    ).images
    with torch.no_grad():
        still = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample.mean(1)
    return ((still + 1) * 128).clamp(0, 255).to(torch.uint8).numpy()


def test_one_still_is_that_of_diffusers_pipeline(folder: Path) -> None:
    [clip] = load_diffecho(str(folder), FAST).generate([request()])
    assert isinstance(clip, np.ndarray)
    assert clip.shape == (1, SIDE, SIDE)
    assert clip.std() > 1
    assert np.abs(clip.astype(int) - pipeline_still(folder, request())).max() <= 1


def test_stills_follow_map_view_and_guidance_and_no_neighbour(folder: Path) -> None:
    maker = load_diffecho(str(folder), FAST)
    asked = [request(place) for place in range(3)]
    together = maker.generate(asked)
    [alone], [other_map], [other_view] = (
        maker.generate([one])
        for one in (asked[1], replace(asked[1], label_map=heart(0.5)), replace(asked[1], conditions={"view": "A2C"}))
    )
    [unguided] = load_diffecho(str(folder), replace(FAST, guidance=1.0)).generate([asked[1]])
    assert np.abs(alone.astype(int) - together[1].astype(int)).max() <= 1
    for changed in (other_map, other_view, unguided):
        assert (changed != alone).any()
    maps = np.stack([heart(), heart(0.8), heart(0.6)])
    [clip] = maker.generate([replace(asked[1], frames=3, label_map=maps)])
    assert np.abs(clip[0].astype(int) - alone[0].astype(int)).max() <= 2  # the still, through one interpolation
    for fault in maker.generate([replace(asked[0], frames=3), replace(asked[0], conditions={"view": "PLAX"})]):
        assert isinstance(fault, ClipError)


def test_prompts_are_those_of_the_authors() -> None:
    two = request(conditions={"view": "A2C"})
    assert prompt_of(two, mapped=True) == "an ultrasound image of heart in two-chamber view"
    assert prompt_of(two, mapped=False) == (
        "An ultrasound image shows the heart in a two-chamber view during the ed phase."
    )
    assert sorted(set(map_picture(request(), SIDE).unique().tolist())) == pytest.approx([0, 1 / 3, 2 / 3])


@pytest.mark.parametrize(("shrink", "drop"), [(0.7, 0), (0.8, 4), (1.15, 0)])
def test_walls_of_a_moved_still_lie_upon_those_of_the_map(shrink: float, drop: int) -> None:
    maps = np.stack([heart(), heart(shrink, drop)])
    still = torch.from_numpy(np.choose(maps[0], [60, 10, 220]).astype(np.float32))
    first, moved = move_still(still, maps)
    assert float((first - still).abs().mean()) < 1.5
    for structure, found in ((1, moved < 30), (2, moved > 150)):
        wanted = torch.from_numpy(maps[1] == structure)
        dice = 2 * float((found & wanted).sum()) / float(found.sum() + wanted.sum())
        assert dice > 0.9
    assert torch.allclose(moved[:3], still[:3], atol=1)  # far from the heart nothing moves


def test_stills_of_a_prompt_alone_and_of_neither(tmp_path: Path) -> None:
    prompted = load_diffecho(str(write_diffecho(tmp_path / "text", control=False)), FAST)
    assert not prompted.wants_label_map
    [clip] = prompted.generate([request(label_map=None)])
    assert isinstance(clip, np.ndarray)
    diffusers = import_diffusers()
    for view in ("class_ch2_ed", "class_ch4_ed"):
        network = diffusers.UNet2DModel(
            sample_size=16,
            in_channels=1,
            out_channels=1,
            block_out_channels=[8, 8],
            layers_per_block=1,
            down_block_types=["DownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "UpBlock2D"],
            norm_num_groups=4,
        )
        network.save_pretrained(tmp_path / "plain" / view / "unet")
        diffusers.DDPMScheduler().save_pretrained(tmp_path / "plain" / view / "scheduler")
    plain = load_diffecho(str(tmp_path / "plain"), FAST)
    four, two = plain.generate([request(size=16), request(size=16, conditions={"view": "A2C"})])
    assert four.shape == (1, 16, 16)
    assert (four != two).any()


def test_a_strange_text_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    place = copy / "text_encoder" / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"auto_map": {"AutoModel": "evil.py"}}))
    with pytest.raises(InputError, match="'auto_map' is no setting of CLIP's text encoder"):
        load_diffecho(str(copy), FAST)
    (copy / "tokenizer" / "merges.txt").write_text("#version: 0.2\none two three\n")
    place.write_text((folder / "text_encoder" / "config.json").read_text())
    with pytest.raises(InputError, match=r"merges.txt must hold two pieces a line"):
        load_diffecho(str(copy), FAST)
    (copy / "unet" / "config.json").unlink()
    with pytest.raises(InputError, match=r"lacks config.json; it is published at .*DiffEcho"):
        load_diffecho(str(copy), FAST)
