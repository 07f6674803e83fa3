"""Scores of a generator, and the whole way from a source to its card."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from echodfkd.config.file import load_config
from echodfkd.core.errors import ClipError
from echodfkd.evaluation.generator_card import make_generator
from echodfkd.evaluation.generator_scores import ef_of_same_noise, measured_ef, nearest_distance
from echodfkd.metrics.frechet import frechet_distance
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.models.teachers.build import build_teacher
from echodfkd.models.teachers.protocol import TeacherOutput
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.training.generator.recipe import GeneratorRecipe
from tests.helpers.generator_training import train_alone


def test_frechet_distance_of_normal_distributions_with_known_moments() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    x -= x.mean(0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T  # covariance exactly 1
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    a, b = white * [1.0, 2.0, 3.0], white * [2.0, 2.0, 5.0] + [1.0, 0.0, 2.0]
    expected = 5.0 + (1 - 2) ** 2 + (3 - 5) ** 2  # means, then differences of the deviations
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)


def test_nearest_distance_is_that_of_a_search() -> None:
    rng = np.random.default_rng(1)
    frames, clips = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((3, 8, 8), (4, 5, 8, 8)))
    clips[2, 3] = frames[1]
    gaps = frames[:, None].astype(float) - clips.reshape(-1, 8, 8)
    expected = np.sqrt(np.square(gaps).mean((2, 3))).min(1)
    np.testing.assert_allclose(nearest_distance(frames, clips), expected, atol=0.2)  # float32 squares of 255
    assert expected[1] == 0.0


def test_the_measured_ejection_fraction_follows_the_drawn_one() -> None:
    source = default_phantom(seed=3, num_frames=20, fps=16.0, size=56, case_frames=20)
    clips = [source.clip(index) for index in range(10)]
    teacher = build_teacher(kind="embedded", weights="", device="cpu", batch_frames=64)
    measured = measured_ef(teacher, np.stack([clip.video for clip in clips]))
    asked = [clip.conditions.ef_percent or 0.0 for clip in clips]
    assert np.corrcoef(measured, asked)[0, 1] > 0.8


def test_the_measured_ejection_fraction_of_known_masks() -> None:
    y, x = np.mgrid[:64, :64] - 31.5
    radii = (24.0, 16.0, 20.0)
    ventricles = np.stack([(x * 1.5) ** 2 + y**2 <= r * r for r in radii]).astype(np.float32)[None, :, None]

    class FakeTeacher:
        def teach(self, video: np.ndarray, *, classes: tuple[str, ...]) -> TeacherOutput:
            return TeacherOutput(ventricles * (video[:, :, None, :1, :1] > 0))

    video = np.full((2, 3, 64, 64), 9, np.uint8)
    video[1, 2] = 0  # the last frame of the second clip shows none
    measured = measured_ef(FakeTeacher(), video)  # type: ignore[arg-type]
    assert measured[0] == pytest.approx(100 * (1 - (16 / 24) ** 3), abs=1.5)  # pixels of a circle of 16
    assert np.isnan(measured[1])


def test_ejection_fractions_of_the_same_noise_are_measured_in_pairs() -> None:
    """A fake generator whose ventricle, a disk that its fake teacher finds, shrinks as it is asked to."""
    y, x = np.mgrid[:64, :64] - 31.5

    class FakeGenerator:
        notes = ()
        wants_label_map = False

        def generate(self, requests: Sequence[ClipRequest]) -> list[np.ndarray | ClipError]:
            found: list[np.ndarray | ClipError] = []
            for request in requests:
                assert request.ef is not None
                radii = request.seed, request.seed * (1 - request.ef) ** (1 / 3)
                found.append(np.stack([x**2 + y**2 <= radius**2 for radius in radii]).astype(np.uint8))
            return found

    class FakeTeacher:
        sees = 1.0

        def teach(self, video: np.ndarray, *, classes: tuple[str, ...]) -> TeacherOutput:
            return TeacherOutput(self.sees * video[:, :, None].astype(np.float32))

    class BlindTeacher(FakeTeacher):
        sees = 0.0

    requests = [ClipRequest(f"r{seed}", seed=seed, frames=2, fps=2.0, size=64) for seed in (24, 30)]
    found = ef_of_same_noise(FakeGenerator(), FakeTeacher(), requests)  # type: ignore[arg-type]
    assert found == {"20": pytest.approx(20.0, abs=2.0), "80": pytest.approx(80.0, abs=2.0)}  # pixels of small disks
    blind = ef_of_same_noise(FakeGenerator(), BlindTeacher(), requests)  # type: ignore[arg-type]
    assert blind == {"20": None, "80": None}  # no number: JSON has none for it


@pytest.mark.slow
def test_from_a_source_to_a_card(tmp_path: Path) -> None:
    config = load_config(None, ["window.frames=16", "window.size=32", "seed=2", "students.s.blocks=2"])
    recipe = GeneratorRecipe(clips=2, vae_steps=1, flow_steps=1)
    out = tmp_path / "mine" / "g.safetensors"
    scores = make_generator(config, out, recipe, 4, train=functools.partial(train_alone, tmp_path))
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["scores"] == json.loads(json.dumps(scores))
    assert card["recipe"]["spec"]["fps_high"] == 32.0
    assert scores["clips"] == 4
    assert scores["ef"]["same_noise"].keys() == {"20", "80"}
    assert scores["frechet"]["made_to_drawn"] > scores["frechet"]["drawn_to_drawn"]  # one step makes no heart
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert out.stat().st_size < 10_000_000
