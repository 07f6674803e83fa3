"""Masks in 8 bits: what each code keeps, and that a divergence with a temperature is the better for logits."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from echodfkd.config.file import load_config
from echodfkd.config.identity import config_hash
from echodfkd.core.errors import ConfigError
from echodfkd.core.mask_codes import LEAST_PROB, LOGIT, LOGIT_STEPS, MASK_CODES, PROBABILITY, decode, encode
from echodfkd.losses.pixels import HALF_CODE, soft_mask_kl
from echodfkd.models.mask_tensors import decode_tensor, encode_tensor
from echodfkd.models.teachers.protocol import ClipKey
from echodfkd.runtime.stream.builders import load_teacher, slot_rules, training_source
from echodfkd.teaching.blocks import make_block, teach_block
from echodfkd.teaching.cache import CachedTeacher
from echodfkd.teaching.mask_files import StoredMask, encode_masks
from echodfkd.teaching.recorded import RecordedMasks
from echodfkd.training.objective import batch_tensors
from tests.helpers.teachers import FloatTeacher, masks_of

TEMPERATURE = 4.0


def logit(prob: np.ndarray) -> np.ndarray:
    return np.log(prob / (1 - prob))


@pytest.mark.parametrize("code", MASK_CODES)
def test_a_code_that_was_decoded_comes_back(code: str) -> None:
    """Which is why it does not matter how often a cache, a fusion and a stream encode and decode a mask."""
    dtype = MASK_CODES[code]
    least = {PROBABILITY: 0, LOGIT: -127}[code]
    codes = np.arange(least, least + (256 if code == PROBABILITY else 255)).astype(dtype)
    np.testing.assert_array_equal(encode(decode(codes), code), codes)
    assert decode(codes).dtype == np.float32
    assert (np.diff(decode(codes)) > 0).all()
    # torch's sigmoid and numpy's exp differ by a unit in the last place
    np.testing.assert_allclose(decode_tensor(torch.from_numpy(codes)).numpy(), decode(codes), atol=1.2e-7)


@pytest.mark.parametrize("code", MASK_CODES)
def test_tensors_are_rounded_as_arrays_are(code: str) -> None:
    """Around every border between two codes too, where float32 has no number for it: no tolerance."""
    levels = np.arange(256)[:, None] / 255 + np.array([-0.5, 0, 0.5]) / 255
    if code == LOGIT:
        levels = 1 / (1 + np.exp(-(np.arange(-130, 131)[:, None] + np.array([-0.5, 0, 0.5])) / LOGIT_STEPS))
    prob = levels.clip(0, 1).astype(np.float32).ravel()
    prob = np.concatenate([prob, np.nextafter(prob, np.float32(1)), np.nextafter(prob, np.float32(0))])
    prob = np.concatenate([prob, np.random.default_rng(0).random(200_000, np.float32)])
    np.testing.assert_array_equal(encode_tensor(torch.from_numpy(prob), code).numpy(), encode(prob, code))


def test_what_a_code_loses() -> None:
    prob = np.linspace(0, 1, 100_001)
    assert np.abs(decode(encode(prob, PROBABILITY)) - prob).max() <= 1 / 510 + 1e-7
    assert np.abs(decode(encode(prob, LOGIT)) - prob).max() <= 1 / 128  # the slope of a sigmoid is 1 / 4 at most
    z = np.linspace(-7.9, 7.9, 10_001)
    kept = encode(1 / (1 + np.exp(-z)), LOGIT)
    assert np.abs(kept / 16 - z).max() <= 1 / 32 + 1e-9
    assert encode(np.array([0.0, 1.0], np.float32), LOGIT).tolist() == [-127, 127]
    assert LEAST_PROB[np.dtype(np.int8)] == pytest.approx(float(decode(np.array([-127], np.int8))[0]), rel=1e-6)


def test_a_divergence_with_a_temperature_is_nearer_to_the_truth_with_logits() -> None:
    """The gradient at the student, which is T (s(z / T) - p_T), against that of the teacher's own logits."""
    torch.manual_seed(0)
    teacher_z = torch.empty(1, 4, 32, 32, dtype=torch.float64).uniform_(-7.5, 7.5)
    student_z = torch.randn_like(teacher_z)
    exact = TEMPERATURE * (torch.sigmoid(student_z / TEMPERATURE) - torch.sigmoid(teacher_z / TEMPERATURE))
    worst = {}
    for code in MASK_CODES:
        codes = encode(torch.sigmoid(teacher_z).numpy(), code)
        leaf = student_z.clone().requires_grad_()
        target = torch.from_numpy(decode(codes)).double()
        least = LEAST_PROB[codes.dtype]
        options = {"total_weight": 1.0, "temperature": TEMPERATURE, "least_prob": least}
        soft_mask_kl(leaf, target, torch.ones(1, dtype=torch.float64), **options).backward()
        worst[code] = float((leaf.grad * leaf[0].numel() - exact).abs().max())
    # d/dz of T s(z / T) is at most 1 / 4: half a step of 1 / 16 moves it by 1 / 128
    assert worst[LOGIT] <= 1 / 128 + 1e-6
    assert worst[PROBABILITY] > 10 * worst[LOGIT]


OPTIONS = ["students.a.blocks=2", "students.a.objective={kl: {temperature: 4}}", "window.frames=28"]


@pytest.mark.parametrize("members", [False, True])
def test_a_stream_of_logits_is_the_same_with_a_cache_and_without(tmp_path: Path, members: bool) -> None:
    ensemble = "{a: {kind: embedded}, b: {kind: embedded, weight: 2}}"
    several = ["teacher.kind=ensemble", f"teacher.members={ensemble}", "teacher.fusion=mean_logit"] if members else []
    options = [*OPTIONS, *several, "teacher.mask_code=logit"]
    plain, cached = load_config(None, options), load_config(None, [*options, f"teacher.cache={tmp_path}"])
    source, rules = training_source(plain), slot_rules(plain)
    block = make_block(source, [0, 1], rules, actor="s")
    taught = [
        teach_block(load_teacher(one, "cpu"), block, lambda: source, rules, actor="t")
        for one in (plain, cached, cached)
    ]
    assert taught[0].teacher_prob.dtype == np.int8
    for other in taught[1:]:
        np.testing.assert_array_equal(other.teacher_prob, taught[0].teacher_prob)
    files = sorted(tmp_path.rglob("*.parquet"))
    assert len(files) == 2
    assert pq.read_table(io.BytesIO(files[0].read_bytes()))["dtype"].to_pylist() == ["int8"]
    tensors = batch_tensors(taught[0], torch.device("cpu"))
    assert tensors.least_prob == LEAST_PROB[np.dtype(np.int8)] < HALF_CODE
    np.testing.assert_allclose(tensors.mask_prob.numpy(), decode(taught[0].teacher_prob), atol=1.2e-7)
    usual = load_config(None, [*OPTIONS, *several, f"teacher.cache={tmp_path}"])
    teach_block(load_teacher(usual, "cpu"), block, lambda: source, slot_rules(usual), actor="t")
    assert len(list(tmp_path.rglob("*.parquet"))) == 4  # the other code has entries of its own


def test_masks_that_were_kept_as_logits_can_be_read_as_recorded_ones(tmp_path: Path) -> None:
    class Fake(FloatTeacher):
        teacher_id, class_names = "fake-1", ("background", "LV")

        def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
            return video_NTHW.astype(np.float32) / 255

    video = np.random.default_rng(0).integers(0, 256, (1, 4, 8, 8), dtype=np.uint8)
    masks_of(CachedTeacher(Fake(), str(tmp_path / "cache"), LOGIT), video, [ClipKey("c", 0, 0)])
    recorded = RecordedMasks(
        str(tmp_path / "cache"), source_classes=("LV",), channels=(0,), class_names=("background", "LV"), place=None
    )
    prob, faults = masks_of(recorded, video, [ClipKey("c", 0, 0)])
    assert not faults
    np.testing.assert_allclose(prob[:, :, 0], video / 255, atol=1 / 128 + 1 / 510 + 1e-6)  # a step of each code
    with pytest.raises(AssertionError, match="uint8 or int8"):
        encode_masks([StoredMask("c", "t", ("LV",), np.zeros((4, 1, 8, 8), np.int16))])


def test_the_option_is_checked_and_is_part_of_what_a_run_is() -> None:
    with pytest.raises(ConfigError, match=r"teacher.mask_code: got 'bits', allowed are probability, logit"):
        load_config(None, [*OPTIONS, "teacher.mask_code=bits"])
    stored = ["teacher.kind=recorded", "teacher.weights=x", "teacher.mask_code=logit"]
    with pytest.raises(ConfigError, match=r"teacher.kind is recorded, whose masks come in steps of 1/255"):
        load_config(None, [*OPTIONS, *stored])
    members = "teacher.members={a: {kind: embedded}, b: {kind: recorded, weights: x}}"
    with pytest.raises(ConfigError, match=r"teacher.members.b.kind is recorded"):
        load_config(None, [*OPTIONS, "teacher.kind=ensemble", members, "teacher.mask_code=logit"])
    usual, coded = load_config(None, OPTIONS), load_config(None, [*OPTIONS, "teacher.mask_code=logit"])
    assert config_hash(usual) != config_hash(coded)
