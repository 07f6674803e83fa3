"""Masks of frames that are remembered are those that would be made again, and a memory is no larger than it may be."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from echodfkd.config.file import load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError
from echodfkd.core.mask_codes import LOGIT, MASK_CODES, PROBABILITY
from echodfkd.models.teachers.build import build_teacher
from echodfkd.models.teachers.network_spec import NetworkSpec, PixelStatistics
from echodfkd.models.teachers.torch_teacher import TorchTeacher
from echodfkd.runtime.stream.builders import load_teacher, slot_rules, training_source
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.teaching.blocks import make_block, teach_block
from echodfkd.teaching.cache import CachedTeacher
from echodfkd.teaching.frame_memory import FrameMemory
from tests.helpers.teachers import lv_prob, masks_of

VIDEO = np.random.default_rng(0).integers(0, 255, (20, 8, 8), dtype=np.uint8)
FAULT = "gave a mask that is not finite"


class CountedNetwork(nn.Module):
    """Two classes by grey level; of a white pixel, none. Counts the frames that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shown += len(x)
        x = torch.where(x >= 2.55, torch.nan, x)
        return torch.cat([x - 1, 1 - x], dim=1)


def fake_teacher(normalise: str = "fixed") -> TorchTeacher:
    return TorchTeacher(
        CountedNetwork(),
        NetworkSpec("fake", PixelStatistics((0.0,), (100.0,), normalise), class_names=("background", "LV", "LA")),
        device="cpu",
        batch_frames=5,
    )


def windows(*starts: int, frames: int = 6) -> np.ndarray:
    return np.stack([VIDEO[start : start + frames] for start in starts])


@pytest.mark.parametrize("code", MASK_CODES)
def test_no_frame_is_taught_twice_and_its_mask_is_the_same(code: str) -> None:
    memory, plain = FrameMemory(fake_teacher(), 1), fake_teacher()
    # frames 0-5 and 3-8: nine, of which the three of both windows count as new; 2-7 and 10-15; 0-5 and 1-6
    for starts, remembered, shown in (((0, 3), 0, 9), ((2, 10), 6, 15), ((0, 1), 18, 15)):
        codes, faults = masks_of(memory, windows(*starts), (), code)
        expected, _ = masks_of(plain, windows(*starts), (), code)
        np.testing.assert_array_equal(codes, expected)
        assert faults == {}
        assert memory.remembered == remembered
        assert memory.teacher.network.shown == shown


def test_a_code_and_a_size_are_not_taken_for_another() -> None:
    memory = FrameMemory(fake_teacher(), 1)
    masks_of(memory, windows(0), (), PROBABILITY)
    found, _ = masks_of(memory, windows(0), (), LOGIT)
    np.testing.assert_array_equal(found, masks_of(fake_teacher(), windows(0), (), LOGIT)[0])
    flat = windows(0).reshape(1, 6, 4, 16)
    assert masks_of(memory, flat, (), LOGIT)[0].shape == (1, 6, 2, 4, 16)
    assert memory.remembered == 0


def test_a_frame_without_a_mask_spoils_its_clips_and_is_not_remembered() -> None:
    bad = windows(0, 3, 8)
    bad[0, 4] = bad[1, 1] = 255  # one frame of the video, in two windows
    memory = FrameMemory(fake_teacher(), 1)
    for _ in range(2):
        codes, faults = masks_of(memory, bad, (), PROBABILITY)
        assert sorted(faults) == [0, 1]
        assert all(FAULT in reason for reason in faults.values())
        np.testing.assert_array_equal(codes[2], masks_of(fake_teacher(), bad[2:], (), PROBABILITY)[0][0])


def test_what_was_met_longest_ago_is_forgotten_first() -> None:
    one = FrameMemory(fake_teacher(), 1)
    masks_of(one, windows(0, frames=1), (), PROBABILITY)
    memory = FrameMemory(fake_teacher(), 3.9 * one._bytes / (1 << 20))  # random masks: all of them as large
    masks_of(memory, windows(0, frames=3), (), PROBABILITY)
    masks_of(memory, windows(0, frames=1), (), PROBABILITY)
    masks_of(memory, windows(5, frames=1), (), PROBABILITY)  # takes the place of frame 1
    assert memory._bytes <= 3.9 * one._bytes
    before = memory.remembered
    masks_of(memory, np.stack([VIDEO[[0, 2, 5]]]), (), PROBABILITY)
    assert memory.remembered - before == 3
    masks_of(memory, windows(1, frames=1), (), PROBABILITY)
    assert memory.remembered - before == 3


def test_a_mask_takes_a_tenth_of_its_pixels() -> None:
    """Soft masks are flat but for their contour: what a user needs to know to choose the size of a memory."""
    memory = FrameMemory(build_teacher(kind="embedded", weights="", device="cpu", batch_frames=8), 1)
    source = default_phantom(seed=0, num_frames=8, fps=32.0, size=112, case_frames=8)
    masks_of(memory, np.stack([source.clip(index).video for index in range(2)]), (), PROBABILITY)
    assert memory._bytes / 16 < 0.1 * 112 * 112


def test_classes_are_returned_as_they_are_asked_for() -> None:
    memory, video = FrameMemory(fake_teacher(), 1), windows(0, 3)
    whole, _ = masks_of(fake_teacher(), video, (), PROBABILITY)
    for _ in range(2):
        found = memory.teach(video, classes=("LA", "LV"), code=PROBABILITY).masks
        np.testing.assert_array_equal(found, whole[:, :, [1, 0]])
    assert memory.remembered == 12


def test_evaluation_sees_masks_that_are_not_rounded() -> None:
    memory = FrameMemory(fake_teacher(), 1)
    np.testing.assert_array_equal(lv_prob(memory, windows(0)), lv_prob(fake_teacher(), windows(0)))


RUN = ["students.a.blocks=2", "window.frames=8", "train.steps=2", "train.global_batch=3", "name=a", "storage=unused"]


def run_config(*options: str) -> RunConfig:
    return load_config(None, [*RUN, *options])


def test_a_run_counts_what_its_teacher_remembers(tmp_path: object) -> None:
    """The same clips twice: by way of the memory, and where a cache lies before it, by way of that."""
    for options, stages in (
        (["teacher.frame_memory_mb=8"], ["teacher_remembered"]),
        (["teacher.frame_memory_mb=8", f"teacher.cache={tmp_path}"], ["teacher_cache"]),
    ):
        config = run_config(*options)
        teacher, source, rules = load_teacher(config), training_source(config), slot_rules(config)
        block = make_block(source, [0, 1, 2], rules, actor="s")
        teach = functools.partial(teach_block, teacher, block, lambda: source, rules, actor="t")  # noqa: B023
        first, second = (teach() for _ in range(2))
        np.testing.assert_array_equal(first.teacher_prob, second.teacher_prob)
        kept = [span for span in second.spans if span.stage not in ("source", "teacher")]
        assert [span.stage for span in kept] == stages
        assert kept[0].frames == 24
        inner = teacher.teacher if isinstance(teacher, CachedTeacher) else teacher
        assert isinstance(inner, FrameMemory)
        plain = masks_of(load_teacher(run_config()), block.video, block.keys(), PROBABILITY)[0]
        np.testing.assert_array_equal(first.teacher_prob, plain)


def test_a_memory_is_no_other_run() -> None:
    assert config_hash(run_config("teacher.frame_memory_mb=8")) == config_hash(run_config())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["teacher.frame_memory_mb=-1"], "teacher.frame_memory_mb: got -1, must be at least 0"),
        (
            ["teacher.frame_memory_mb=1", "teacher={kind: recorded, weights: masks}"],
            "teacher.frame_memory_mb: has no use here, because no teacher is a network that sees a frame at a time",
        ),
        (
            [
                "teacher.frame_memory_mb=1",
                "teacher.feature_layer=up.0",
                "students.a.objective={bce: {}, features: {weight: 1}}",
            ],
            "teacher.frame_memory_mb: remembers only masks, but teacher.feature_layer is set",
        ),
    ],
)
def test_a_memory_that_cannot_help_is_refused(options: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        run_config(*options)


def test_a_network_that_looks_at_a_whole_clip_has_no_masks_of_frames() -> None:
    assert fake_teacher("frame").sees_frames
    assert not fake_teacher("clip").sees_frames
    with pytest.raises(AssertionError):
        FrameMemory(fake_teacher("clip"), 1)
