"""Clips between a generator's rate and size and those asked for; every published kind by its builder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from echodfkd.config.sections.generator import GeneratorConfig
from echodfkd.core.errors import ClipError, ConfigError, InputError
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.generators import build
from echodfkd.models.generators.frames import choose_fractions, fit_clip, generate_alike, own_frames
from echodfkd.models.generators.protocol import ClipRequest


def request(place: int = 0, frames: int = 4, fps: float = 32.0, size: int = 4, ef: float | None = 0.5) -> ClipRequest:
    return ClipRequest(f"clip-{place}", place, frames, fps, size, ef=ef)


@pytest.mark.parametrize(
    ("frames", "fps", "own"), [(1, 50.0, 1), (64, 32.0, 64), (5, 16.0, 9), (5, 64.0, 3), (6, 64.0, 4), (16, 50.0, 11)]
)
def test_own_frames_hold_all_that_are_asked_for(frames: int, fps: float, own: int) -> None:
    assert own_frames(request(frames=frames, fps=fps), 32.0) == own
    assert (own - 1) / 32.0 >= (frames - 1) / fps - 1e-9 > (own - 2) / 32.0


def test_a_clip_is_resampled_in_time_and_size_and_cut_to_grey_levels() -> None:
    ramp = torch.arange(5.0)[:, None, None].expand(5, 4, 4) * 10
    assert fit_clip(ramp, request(), 32.0)[:, 0, 0].tolist() == [0, 10, 20, 30]
    assert fit_clip(ramp, request(fps=64.0, frames=4), 32.0)[:, 0, 0].tolist() == [0, 5, 10, 15]
    assert fit_clip(ramp, request(fps=16.0, frames=3), 32.0)[:, 0, 0].tolist() == [0, 20, 40]
    assert fit_clip(ramp * 100 - 50, request(frames=2), 32.0)[:, 0, 0].tolist() == [0, 255]
    checked = torch.zeros(4, 8, 8)
    checked[:, ::2, ::2] = 200
    assert set(fit_clip(checked, request(size=4), 32.0)[0, 1:3, 1:3].flatten().tolist()) <= set(range(40, 61))
    fault = fit_clip(torch.full((4, 4, 4), torch.nan), request(), 32.0)
    assert isinstance(fault, ClipError)
    assert "not finite" in str(fault)


def test_requests_of_one_kind_are_made_together_and_answered_in_their_order() -> None:
    made: list[list[str]] = []

    def make(asked: list[ClipRequest]) -> list[torch.Tensor]:
        made.append([one.clip_id for one in asked])
        return [torch.full((8, 4, 4), float(one.clip_id[-1])) for one in asked]

    def key(one: ClipRequest) -> int | ClipError:
        return ClipError("no") if one.clip_id == "clip-2" else one.frames

    asked = [request(0), request(1, frames=6), request(2), request(3)]
    clips = generate_alike(asked, key, make, None)
    assert made == [["clip-0", "clip-3"], ["clip-1"]]
    assert isinstance(clips[2], ClipError)
    assert [int(clips[place][0, 0, 0]) for place in (0, 1, 3)] == [0, 1, 3]
    assert clips[1].shape == (6, 4, 4)


def test_fractions_that_are_not_asked_for_are_drawn_from_the_clips_seed() -> None:
    def chosen(seeds: list[int]) -> list[float]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return choose_fractions([request(ef=None) for _ in seeds], generators).tolist()

    assert chosen([3, 4]) == [*chosen([3]), *chosen([4])]
    assert min(chosen(list(range(200)))) >= 0.1
    assert max(chosen(list(range(200)))) <= 0.9
    assert np.mean(chosen(list(range(200)))) == pytest.approx(0.5, abs=0.05)
    assert choose_fractions([request(ef=0.25)], [torch.Generator()]).tolist() == [0.25]


@pytest.mark.parametrize("kind", build.PUBLISHED)
def test_an_empty_folder_is_refused_with_a_file_its_home_and_the_option(kind: str, tmp_path: Path) -> None:
    options = GeneratorConfig(weights=str(tmp_path))
    with pytest.raises(InputError, match=r"source.generator.weights: .* (lacks|must hold) .*https://"):
        build._BUILDERS[kind](options, "cpu", "fp32")


class Payload:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("name", ["weights.pt", "network.pth", "weights.safetensors"])
def test_a_pickle_in_the_place_of_weights_is_not_run(name: str, tmp_path: Path) -> None:
    torch.save({"ema": {"x": torch.zeros(1)}, "code": Payload(tmp_path / "mark")}, tmp_path / name)
    files = PublishedFiles(tmp_path, "https://example.org")
    if name.endswith("safetensors"):
        with pytest.raises(InputError, match="is no safetensors file"):
            files.read_tensors(name)
    else:
        assert files.read_tensors(name, entries=("ema",))["x"].tolist() == [0]
    assert not (tmp_path / "mark").exists()
    (tmp_path / name).rename(tmp_path / "copy.pt")
    torch.load(tmp_path / "copy.pt", weights_only=False)  # the payload works
    assert (tmp_path / "mark").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"source.generator.device: got cuda"):
        build._BUILDERS["echonet_synthetic"](GeneratorConfig(), "cuda", "fp32")
