"""The privacy filter: its numbers by another way, its file, and its place before training for any source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from echodfkd.config.file import load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.privacy import PrivacyConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.runtime.stream.builders import slot_rules, source_notes, synthesis_source, training_source
from echodfkd.runtime.synthesis_run import identity_of
from echodfkd.sources.privacy import _pixels, largest_correlations, privacy_filter
from echodfkd.teaching.blocks import make_block
from jobs.privacy_reference import main

SMALL = ["students.a={blocks: 1}", "window.size=32", "window.frames=2", "window.fps=8", "data.max_attempts=9"]
CASES = ["evaluation.cases=6", "evaluation.frames=4"]


def run_config(reference: Path, *more: str) -> RunConfig:
    return load_config(None, [*SMALL, *CASES, "privacy.encoder=pixels", f"privacy.reference={reference}", *more])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the job, of drawn hearts; the threshold is lowered to one that rejects about half of the clips."""
    path = tmp_path_factory.mktemp("privacy") / "reference.safetensors"
    assert main(["--encoder", "pixels", "--percentile", "50", "--out", str(path), *SMALL, *CASES]) == 0
    return path


def test_the_largest_correlation_is_numpys() -> None:
    rng = np.random.default_rng(0)
    features, others = rng.normal(size=(3, 7)), rng.normal(size=(4, 7))
    expected = np.corrcoef(features, others)[:3, 3:].max(axis=1)
    assert largest_correlations(features, others) == pytest.approx(expected, abs=1e-12)
    assert largest_correlations(np.ones((1, 7)), others) == pytest.approx(0)


def test_pixels_are_means_of_cells() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (2, 48, 32), dtype=np.uint8)
    expected = frames.reshape(2, 16, 3, 16, 2).astype(float).mean(axis=(2, 4)).reshape(2, -1)
    assert _pixels(frames) == pytest.approx(expected, abs=1e-3)


def test_the_job_writes_the_percentile_of_held_out_clips(reference: Path) -> None:
    config = load_config(None, [*SMALL, *CASES])
    found = load_file(reference)
    own = [training_source(config).case(number).video[0] for number in range(6)]
    assert found["features"] == pytest.approx(_pixels(np.stack(own)), abs=1e-3)
    held_out = training_source(load_config(None, [*SMALL, *CASES, f"source.seed_offset={offset_of(config)}"]))
    others = _pixels(np.stack([held_out.case(number).video[0] for number in range(6)]))
    expected = np.median(np.corrcoef(others, found["features"])[:6, 6:].max(axis=1))
    assert found["threshold_pixels"] == pytest.approx([expected], abs=1e-5)


def offset_of(config: RunConfig) -> int:
    return config.evaluation.source.seed_offset


def test_clips_of_any_source_are_rejected_counted_and_replaced(reference: Path) -> None:
    config = run_config(reference)
    block = make_block(training_source(config), range(8), slot_rules(config), actor="source-1")
    assert not block.fault
    rejected = [row for row in block.quarantined if row.stage == "privacy"]
    assert rejected, "about half of the clips"
    assert rejected == list(block.quarantined)
    features, threshold = load_file(reference)["features"], load_file(reference)["threshold_pixels"][0]
    source = training_source(load_config(None, [*SMALL, *CASES]))
    for index in {row.index for row in rejected} | set(block.index.tolist()):
        first = _pixels(source.clip(index).video[:1])
        found = np.corrcoef(first, features)[0, 1:].max()
        assert (found > threshold) == (index in {row.index for row in rejected})
    assert "correlates by" in rejected[0].reason
    with pytest.raises(ValueError, match="correlates by"):
        synthesis_source(config).clip(rejected[0].index)
    assert any(note.startswith("privacy: clips are not used if") for note in source_notes(config))
    assert "privacy" in identity_of(config)


def test_a_run_knows_its_filter_by_content(reference: Path, tmp_path: Path) -> None:
    moved = tmp_path / "other.safetensors"
    moved.write_bytes(reference.read_bytes())
    assert config_hash(run_config(moved)) == config_hash(run_config(reference))
    assert config_hash(run_config(moved)) != config_hash(load_config(None, [*SMALL, *CASES]))
    save_file({**load_file(reference), "threshold_pixels": np.array([0.5])}, moved)
    assert config_hash(run_config(moved)) != config_hash(run_config(reference))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {"features": np.zeros((2, 5), np.float32)},
            r"holds features; expected features \(M, K\) and threshold_pixels",
        ),
        ({"features": np.zeros((0, 256)), "threshold_pixels": np.zeros(1)}, "holds no features"),
        (
            {"features": np.zeros((2, 5)), "threshold_pixels": np.zeros(1)},
            "has 5 features a frame, the encoder gives 256",
        ),
        ({"features": np.full((2, 256), np.nan), "threshold_pixels": np.zeros(1)}, "not finite"),
        (None, "cannot be read"),
    ],
)
def test_a_reference_that_cannot_be_used_is_one_sentence(tmp_path: Path, tensors: dict | None, words: str) -> None:
    path = tmp_path / "reference.safetensors"
    path.write_bytes(json.dumps({}).encode()) if tensors is None else save_file(tensors, path)
    with pytest.raises(InputError, match=words):
        privacy_filter(PrivacyConfig(encoder="pixels", reference=str(path)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("privacy.reference=/nowhere", "privacy.reference: set, but privacy.encoder is empty; name an encoder"),
        ("privacy.encoder=pixels", "privacy.reference: empty, but privacy.encoder is pixels; name the file that"),
        ("privacy={encoder: pixels, reference: /nowhere}", "privacy.reference: /nowhere cannot be read"),
        ("privacy={encoder: pixels, reference: /x, weights: /y}", "privacy.encoder is pixels; which has none"),
        ("privacy={encoder: reidentification, reference: /x}", "privacy.encoder is reidentification; name the folder"),
    ],
)
def test_a_filter_without_its_files_is_refused(options: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*SMALL, options])
    assert words in str(caught.value)
