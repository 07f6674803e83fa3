"""Clips varied on the fly, against scipy's resampling; and where in the stream that happens."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import ndimage

from echodfkd.config.file import load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.sections.augment import AugmentConfig
from echodfkd.core.errors import ConfigError
from echodfkd.core.records import DistillationBatch, VideoClip
from echodfkd.runtime.stream.builders import slot_rules
from echodfkd.sources.video.augment import CONE_DEPTH, CONE_HALF_ANGLE_DEG, augment_clip
from echodfkd.teaching.blocks import SlotRules, make_block, teach_block
from echodfkd.teaching.cache import CachedTeacher
from tests.helpers.teachers import FloatTeacher

COS_30 = math.cos(math.pi / 6)
KEY = {"seed": 3, "index": 17, "epoch": 1}
EVERYTHING = AugmentConfig(rotate_deg=20, scale=0.2, shift=0.1, crop=0.2, gain=0.3, gamma=0.3, speckle=0.2, cone=0.5)
ONE_STUDENT = "students.a={blocks: 2, layers: 1, filters: 4}"


def disc(size: int = 48, centre: tuple[float, float] = (20.0, 27.0), radius: float = 9.0) -> np.ndarray:
    """Probability 1 inside and 0 outside, with an edge two pixels wide."""
    rows, columns = np.mgrid[:size, :size]
    return np.clip((radius - np.hypot(rows - centre[0], columns - centre[1])) / 2 + 0.5, 0, 1).astype(np.float32)


def video_of(prob: np.ndarray, frames: int = 2) -> np.ndarray:
    return np.repeat(np.rint(255 * prob).astype(np.uint8)[None], frames, 0)


def parameters(monkeypatch: pytest.MonkeyPatch, **drawn: float) -> None:
    """Every draw is its middle, but for those that are named: the share of the way from low to high."""
    share = {"rotate": 0.5, "scale": 0.5, "crop": 0.0, "gain": 0.5, "gamma": 0.5, "cone": 0.0, **drawn}
    monkeypatch.setattr(
        "echodfkd.sources.video.augment._Draws.uniform",
        lambda self, name, low, high: low + (high - low) * share.get(name, 0.5),
    )


def test_no_strength_is_no_change() -> None:
    video = np.random.default_rng(0).integers(0, 256, (3, 24, 24), np.uint8)
    prob = np.random.default_rng(1).random((3, 1, 24, 24), np.float32)
    for options in (AugmentConfig(), AugmentConfig(where="after_teacher")):
        same, masks = augment_clip(video, prob, options, **KEY)
        assert same is video
        assert masks is prob


@pytest.mark.parametrize(
    ("options", "drawn", "matrix", "offset"),
    [
        # matrix and offset of scipy's output -> input map, by hand, about the centre (row, column)
        (AugmentConfig(rotate_deg=30), {"rotate": 1.0}, ((COS_30, 0.5), (-0.5, COS_30)), (0, 0)),
        (AugmentConfig(scale=0.5), {"scale": 1.0}, ((1 / 1.5, 0), (0, 1 / 1.5)), (0, 0)),
        (AugmentConfig(shift=0.25), {"shift_y": 1.0, "shift_x": 0.0}, ((1, 0), (0, 1)), (-12.0, 12.0)),
        (AugmentConfig(crop=0.5), {"crop": 1.0, "crop_y": 0.0, "crop_x": 1.0}, ((0.5, 0), (0, 0.5)), (-12.0, 12.0)),
    ],
)  # fmt: skip
def test_geometry_is_scipys(monkeypatch: pytest.MonkeyPatch, options, drawn, matrix, offset) -> None:
    """Linear interpolation on either side: what is left is float32 (1e-4 of a probability) and rounding (one grey)."""
    parameters(monkeypatch, **drawn)
    prob = disc()
    video, masks = augment_clip(video_of(prob), np.repeat(prob[None, None], 2, 0), options, **KEY)
    centre = (np.array(prob.shape) - 1) / 2
    shift = centre - np.array(matrix) @ centre + np.array(offset)

    def wanted(image: np.ndarray) -> np.ndarray:
        return ndimage.affine_transform(
            image.astype(np.float64), np.array(matrix), shift, order=1, mode="grid-constant", cval=0.0
        )

    assert np.abs(masks[0, 0] - wanted(prob)).max() < 1e-4
    assert np.abs(video[0] - wanted(video_of(prob)[0])).max() < 0.5 + 1e-2
    assert 0.05 < np.abs(masks[0, 0] - prob).mean() * prob.size / prob.sum()  # and it did move


def test_the_disc_turns_counter_clockwise_and_keeps_its_area(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disc right of the centre comes up above it after a quarter turn. The area is that of pi r^2 to 2 %."""
    parameters(monkeypatch, rotate=1.0)
    prob = disc(centre=(23.5, 35.5))
    _, masks = augment_clip(video_of(prob), prob[None, None], AugmentConfig(rotate_deg=90), **KEY)
    assert ndimage.center_of_mass(masks[0, 0]) == pytest.approx((11.5, 23.5), abs=0.05)
    assert masks.sum() == pytest.approx(math.pi * 9**2, rel=0.02)


def test_video_and_mask_stay_registered() -> None:
    """A video that is its own mask: after any draw of the geometry the two differ by grey-level rounding alone."""
    prob = disc()
    prob = video_of(prob)[0].astype(np.float32) / 255
    options = dataclasses.replace(EVERYTHING, gain=0, gamma=0, speckle=0)
    seen = set()
    for index in range(20):
        video, masks = augment_clip(
            video_of(prob), np.repeat(prob[None, None], 2, 0), options, seed=0, index=index, epoch=0
        )
        assert np.abs(video / 255 - masks[:, 0]).max() < 0.5 / 255 + 1e-5
        assert np.array_equal(video[0], video[1])  # one draw for all frames
        seen.add(video.tobytes())
    assert len(seen) == 20


def test_grey_levels_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters(monkeypatch, gain=1.0, gamma=1.0)
    video = np.arange(0, 256, dtype=np.uint8).reshape(1, 16, 16)
    changed, masks = augment_clip(video, video[:, None] / np.float32(255), AugmentConfig(gain=0.2, gamma=0.5), **KEY)
    wanted = np.clip(1.2 * 255 * (video / 255) ** math.exp(0.5), 0, 255)
    assert np.abs(changed - wanted).max() < 0.5 + 1e-2  # rounding, and float32
    assert np.array_equal(masks[:, 0], video / np.float32(255))  # grey levels do not move masks


def test_speckle_is_multiplicative_and_its_own_in_every_frame() -> None:
    """128 (1 + 0.1 n) with n normal: the deviation of 20,000 pixels is 12.8 to 3 %, three standard errors each way."""
    video = np.full((2, 100, 100), 128, np.uint8)
    video[:, :, :10] = 0
    changed, _ = augment_clip(video, None, AugmentConfig(speckle=0.1), **KEY)
    bright = changed[:, :, 10:].astype(float)
    assert bright.std() == pytest.approx(12.8, rel=0.03)
    assert bright.mean() == pytest.approx(128, abs=0.5)
    assert (changed[:, :, :10] == 0).all()  # no signal, no speckle
    assert abs(np.corrcoef(bright[0].ravel(), bright[1].ravel())[0, 1]) < 0.05


def test_the_cone_hides_video_and_mask_alike() -> None:
    video, prob = np.full((1, 60, 60), 200, np.uint8), np.ones((1, 2, 60, 60), np.float32)
    shown = []
    for index in range(40):
        seen, masks = augment_clip(video, prob, AugmentConfig(cone=0.5), seed=0, index=index, epoch=0)
        assert np.array_equal(seen[0] > 0, masks[0, 1] > 0)
        shown.append((masks[0, 0] > 0).mean())
    hidden = [share for share in shown if share < 1]
    assert 10 <= len(hidden) <= 30  # half of 40, within three standard deviations
    # a sector's area is angle * depth^2, in shares of the frame; the sides cut a little of the widest ones off
    low, high = (math.radians(a) * d**2 for a, d in zip(CONE_HALF_ANGLE_DEG, CONE_DEPTH, strict=True))
    assert all(0.85 * low < share < 1.05 * high for share in hidden)


def test_a_draw_is_a_function_of_seed_index_and_epoch() -> None:
    video, prob = video_of(disc()), np.repeat(disc()[None, None], 2, 0)
    one, other = (augment_clip(video, prob, EVERYTHING, **KEY) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    for change in ({"seed": 4}, {"index": 18}, {"epoch": 2}):
        assert not np.array_equal(augment_clip(video, prob, EVERYTHING, **{**KEY, **change})[0], one[0])


class FakeSource:
    """A disc in every clip, brighter with the index."""

    name = "fake"
    num_cases = None

    def clip(self, index: int) -> VideoClip:
        video = (video_of(disc()) * (0.5 + 0.05 * index)).astype(np.uint8)
        return VideoClip(
            f"fake-{index}", index, 0, 0, 0, video, 32.0, "fake", "fake", truth_labels=np.zeros_like(video)
        )

    def case(self, index: int) -> VideoClip:
        return self.clip(index)


class FakeTeacher(FloatTeacher):
    """Probability = grey level / 255; remembers what it was shown."""

    teacher_id = "fake-1"
    class_names = ("background", "LV")

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        self.shown = video_NTHW
        return video_NTHW.astype(np.float32) / 255


def taught(options: AugmentConfig, teacher, slots: tuple[int, ...] = (0, 1, 2)) -> DistillationBatch:
    rules = SlotRules(10, 3, (2, 48, 48), augment=options, seed=5)
    block = make_block(FakeSource(), list(slots), rules, actor="s")
    return teach_block(teacher, block, FakeSource, rules, actor="t")


def test_before_the_teacher_it_sees_what_the_student_sees() -> None:
    teacher = FakeTeacher()
    plain, varied = taught(AugmentConfig(), teacher), taught(EVERYTHING, teacher)
    assert np.array_equal(teacher.shown, varied.video)
    assert np.array_equal(varied.teacher_prob[:, :, 0], varied.video)  # this teacher's masks are what it was shown
    assert not np.array_equal(varied.video, plain.video)
    assert varied.clip_id == plain.clip_id


def test_after_the_teacher_masks_move_with_the_video() -> None:
    """The teacher sees the clips as they are. With geometry alone, its masks stay those of the video: codes are rounded
    before and after the move, by half a level each."""
    teacher = FakeTeacher()
    plain = taught(AugmentConfig(), teacher)
    options = AugmentConfig(where="after_teacher", rotate_deg=20, scale=0.2, shift=0.1, crop=0.2)
    varied = taught(options, teacher)
    assert np.array_equal(teacher.shown, plain.video)
    assert not np.array_equal(varied.video, plain.video)
    assert np.abs(varied.teacher_prob[:, :, 0].astype(int) - varied.video).max() <= 1


@pytest.mark.parametrize("where", ["before_teacher", "after_teacher"])
def test_the_cut_of_the_stream_changes_nothing(where: str) -> None:
    options = dataclasses.replace(EVERYTHING, where=where)
    whole = taught(options, FakeTeacher())
    parts = [taught(options, FakeTeacher(), (slot,)) for slot in (2, 0, 1)]
    for name in ("video", "teacher_prob"):
        together = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(together[[1, 2, 0]], getattr(whole, name))


def test_off_is_the_old_stream() -> None:
    """Bit for bit, and under the same hash; where it would stand does not matter while it is off."""
    old = SlotRules(10, 3, (2, 48, 48))
    block = make_block(FakeSource(), [0, 1], old, actor="s")
    unvaried = teach_block(FakeTeacher(), block, FakeSource, old, actor="t")
    batch = taught(AugmentConfig(where="after_teacher"), FakeTeacher(), (0, 1))
    assert np.array_equal(unvaried.video, batch.video)
    assert np.array_equal(unvaried.teacher_prob, batch.teacher_prob)
    plain = load_config(None, [ONE_STUDENT])
    assert config_hash(load_config(None, [ONE_STUDENT, "augment.where=after_teacher"])) == config_hash(plain)
    varied = load_config(None, [ONE_STUDENT, "augment.gain=0.2", "seed=4"])
    assert config_hash(varied) != config_hash(load_config(None, [ONE_STUDENT, "seed=4"]))
    assert (slot_rules(varied).augment.gain, slot_rules(varied).seed) == (0.2, 4)


def test_the_mask_cache_knows_varied_clips_by_their_pixels(tmp_path) -> None:
    """Clip ids stay, so that an entry of other strengths is stale and taught again; an equal one is a hit."""
    cache = CachedTeacher(FakeTeacher(), str(tmp_path))
    first = taught(EVERYTHING, cache)
    again = taught(EVERYTHING, cache)
    assert np.array_equal(first.teacher_prob, again.teacher_prob)
    other = taught(dataclasses.replace(EVERYTHING, gain=0.1), cache)
    assert dict(cache.counts) == {"new": 3, "hit": 3, "stale": 3}
    assert np.array_equal(other.teacher_prob[:, :, 0], other.video)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["augment.where=never"], "augment.where: got 'never', allowed are before_teacher, after_teacher"),
        (["augment.scale=1"], "augment.scale: got 1.0, must lie in 0 <= value < 1"),
        (["augment.rotate_deg=-1"], "augment.rotate_deg: got -1.0, must lie in 0 .. 180"),
        (
            ["augment.gain=0.1", "teacher.kind=recorded", "teacher.weights=/masks"],
            "augment.where: got before_teacher, but the masks of teacher.kind=recorded belong to the videos",
        ),
        (
            [
                "augment={where: after_teacher, shift: 0.1}",
                "teacher.feature_layer=up.0",
                "students.a.objective={bce: {}, features: {}}",
            ],
            "augment.where: got after_teacher, but teacher.feature_layer is set",
        ),
    ],
)
def test_what_cannot_be_varied_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [ONE_STUDENT, *overrides])
    assert words in str(caught.value)
