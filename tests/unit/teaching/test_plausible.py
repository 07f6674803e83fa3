"""A plausible teacher: it sees the sector only, and its ventricle is one part. The teacher inside is a stand-in."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from echodfkd.config.file import config_from_dict
from echodfkd.core.errors import ConfigError
from echodfkd.core.mask_codes import decode
from echodfkd.metrics.overlap import dice
from echodfkd.metrics.plausibility import stray_share
from echodfkd.models.teachers.build import build_teacher
from echodfkd.models.teachers.protocol import ClipKey, Teacher, TeacherOutput
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.teaching.build import build_configured_teacher
from echodfkd.teaching.plausible import PlausibleTeacher, find_sector
from echodfkd.teaching.slots import SlotRules, refuse_stray

SIZE = 48


def sector_of(half_angle: float) -> np.ndarray:
    rows, columns = np.indices((SIZE, SIZE)) + 0.5
    angle = np.degrees(np.arctan2(columns - SIZE / 2, rows))
    return (np.abs(angle) < half_angle) & (np.hypot(columns - SIZE / 2, rows) < SIZE - 2)


def recording(half_angle: float = 35.0, frames: int = 6) -> np.ndarray:
    """Noise in a sector, and outside of it a letter, a ruler and a grey that does not change."""
    noise = np.random.default_rng(0).integers(0, 200, (frames, SIZE, SIZE))
    video = np.where(sector_of(half_angle), noise, 0).astype(np.uint8)
    video[:, 2:9, 2] = video[:, 2, 2:6] = 255
    video[:, 4:30, SIZE - 3] = 255
    return video


class StandInTeacher(Teacher):
    """Gives the masks that it is built with, and keeps the video that it is shown."""

    teacher_id, class_names = "stand-in", ("background", "myocardium", "LV")

    def __init__(self, prob_NTCHW: np.ndarray) -> None:
        self.prob, self.seen = prob_NTCHW, np.zeros(0)

    def teach(
        self,
        video_NTHW: np.ndarray,
        clips: Sequence[ClipKey] = (),
        *,
        classes: Sequence[str] | None = None,
        code: str | None = None,
    ) -> TeacherOutput:
        self.seen = video_NTHW
        return self.output_of(self.prob.copy(), video_NTHW, classes=classes, code=code)


def test_the_sector_is_found_and_what_lies_beside_it_is_not() -> None:
    for half_angle in (25.0, 35.0, 45.0):
        found, true = find_sector(recording(half_angle)), sector_of(half_angle)
        assert found[true].mean() > 0.97  # the tip, thinner than the opening, may go
        beside = ~sector_of(half_angle + 12) & (np.indices((SIZE, SIZE))[0] < 30)
        assert not found[beside].any()


def test_a_trace_that_moves_does_not_count() -> None:
    video = recording()
    for frame in range(len(video)):
        video[frame, 40:44, frame : frame + 2] = 255
    assert np.array_equal(find_sector(video), find_sector(recording()))


@pytest.mark.parametrize("video", ["black", "patch", "line", "whole"])
def test_a_clip_without_a_sector_stays_whole(video: str) -> None:
    frames = np.zeros((4, SIZE, SIZE), np.uint8)
    noise = np.random.default_rng(1).integers(0, 255, frames.shape).astype(np.uint8)
    part = {"black": np.s_[:0], "patch": np.s_[:, 40:46, 5:20], "line": np.s_[:, 3:6, :], "whole": np.s_[:]}[video]
    frames[part] = noise[part]
    assert find_sector(frames).all()


def test_a_side_in_the_dark_belongs_to_the_sector() -> None:
    video = recording()
    video[:, :, SIZE // 2 + 3 :] //= 40
    assert find_sector(video)[sector_of(35.0)].mean() > 0.95


def test_the_ventricle_of_the_phantom_lies_in_the_sector() -> None:
    """A rib's shadow may lie over one side of it."""
    source = default_phantom(seed=4, num_frames=6, fps=12.0, size=64, case_frames=6)
    for index in range(6):
        clip = source.clip(index)
        assert find_sector(clip.video)[(clip.truth_labels == 1).any(0)].mean() > 0.95


def test_one_ventricle_stays_and_other_classes_are_untouched() -> None:
    """The patch goes with its halo; low probabilities elsewhere, and the other class, are left as they were."""
    prob = np.full((2, 6, 2, SIZE, SIZE), 0.1, np.float32)
    prob[:, :, 1, 15:30, 18:30] = 0.9
    prob[0, 2, 1, 5:9, 30:34] = 0.8
    prob[0, 2, 1, 4, 30:34] = 0.3
    teacher = PlausibleTeacher(StandInTeacher(prob))
    video = np.stack([recording(), recording(frames=6)])
    masks = teacher.teach(video).masks
    assert np.array_equal(masks[:, :, 0], prob[:, :, 0])
    assert np.array_equal(masks[1], prob[1])
    assert not masks[0, 2, 1, 4:9, 30:34].any()
    left = np.ones((SIZE, SIZE), bool)
    left[3:11, 28:36] = False
    assert np.array_equal(masks[0, 2, 1][left], prob[0, 2, 1][left])
    inner = teacher.teacher
    assert isinstance(inner, StandInTeacher)
    assert not inner.seen[:, :, 2:9, 2].any()
    assert np.array_equal(inner.seen[0][:, sector_of(30.0)], video[0][:, sector_of(30.0)])
    coded = teacher.teach(video, classes=("LV",), code="probability").masks
    assert np.abs(decode(coded) - masks[:, :, 1:]).max() < 0.003


def test_what_a_scanner_writes_is_no_ventricle() -> None:
    """Text, a ruler, a colour bar and an ECG beside the sector take the plain teacher in, and not the plausible one."""
    source = default_phantom(seed=5, num_frames=4, fps=8.0, size=112, case_frames=4)
    plain = build_teacher(kind="embedded", weights="", device="cpu", batch_frames=8)
    taken_in = 0
    for clip in (source.clip(0), source.clip(3)):
        written = scanner_furniture(len(clip.video), clip.video.shape[-1])
        video = np.maximum(clip.video, written)
        masks = [
            teacher.teach(video[None], classes=("LV",)).masks[0, :, 0] > 0.5
            for teacher in (plain, PlausibleTeacher(plain))
        ]
        taken_in += stray_share(masks[0]) > 0.2
        assert stray_share(masks[1]) == 0.0
        assert not masks[1][written > 0].any()
        assert dice(masks[1], clip.truth_labels == 1).mean() > 0.95
    assert taken_in == 2


def scanner_furniture(frames: int, side: int) -> np.ndarray:
    """What scanners draw around the sector: uint8 (T, H, W), 0 elsewhere. The ECG moves."""
    pictures = []
    for frame in range(frames):
        picture = Image.new("L", (side, side))
        draw = ImageDraw.Draw(picture)
        draw.text((1, 1), "TIS0.8\nMI 1.2", fill=230)
        draw.text((side - 34, 2), "55 Hz\n16cm", fill=230)
        draw.line((side - 2, 6, side - 2, side - 10), fill=255)
        for row in range(6, side - 10, 8):
            draw.line((side - 6, row, side - 2, row), fill=255)
        for row in range(30, 70):
            draw.line((2, row, 6, row), fill=255 - 6 * (row - 30))
        draw.line([(x, side - 18 if (x + 3 * frame) % 18 < 3 else side - 8) for x in range(36)], fill=255)
        draw.ellipse((8, side - 34, 28, side - 20), outline=200, fill=60)
        pictures.append(np.asarray(picture))
    return np.stack(pictures)


def test_a_clip_that_is_mostly_stray_keeps_its_parts_and_is_quarantined() -> None:
    """Two patches of 150 and 90 pixels: 37.5 % are stray."""
    prob = np.zeros((1, 6, 2, SIZE, SIZE), np.float32)
    prob[:, :, 1, 15:25, 18:33] = prob[:, :, 1, 30:36, 18:33] = 0.9
    inner = StandInTeacher(prob)
    for limit, parts in ((1.0, 1), (0.4, 1), (0.37, 2)):
        teacher = PlausibleTeacher(inner, limit)
        masks = teacher.teach(recording()[None], classes=("LV",)).masks
        assert ndimage.label(masks[0, :, 0] > 0.5)[1] == parts
        assert teacher.teacher_id == "stand-in-plausible" + ("" if limit == 1.0 else str(limit))
        rules = SlotRules(10, 3, (6, SIZE, SIZE), stray_limit=limit)
        coded = teacher.teach(recording()[None], classes=("LV",), code="probability")
        refused = refuse_stray(coded, rules)
        assert bool(refused.faults) == (parts == 2)
        assert refused.masks.any() == (parts == 1)
    assert refused.faults == {
        0: "37.5% of its left ventricle lies outside the part that is largest over the clip, more than"
        " teacher.stray_limit (37.0%)"
    }


def config(**teacher: object):
    return config_from_dict({"students": {"a": {}}, "teacher": {"kind": "embedded", **teacher}})


def test_the_option_makes_another_teacher() -> None:
    plain, plausible = (
        build_configured_teacher(config(plausible=value).teacher, device="cpu") for value in (False, True)
    )
    assert plausible.teacher_id == f"{plain.teacher_id}-plausible"
    limited = build_configured_teacher(config(plausible=True, stray_limit=0.2).teacher, device="cpu")
    assert limited.teacher_id == f"{plain.teacher_id}-plausible0.2"
    assert plain.class_names == plausible.class_names
    video = recording()[None]
    black = video * find_sector(video[0])
    assert not np.array_equal(video, black)
    first, second = plain.teach(black).masks[0], plausible.teach(video).masks[0]
    kept = second > 0
    assert np.array_equal(first[kept], second[kept])


def test_options_that_do_not_go_with_it_are_named() -> None:
    with pytest.raises(ConfigError, match=r"teacher.frame_memory_mb: has no use here.*\.plausible\)"):
        config(plausible=True, frame_memory_mb=8)
    with pytest.raises(ConfigError, match=r"teacher.plausible: has no effect if teacher.kind is recorded"):
        config(kind="recorded", weights="masks", plausible=True)
    with pytest.raises(ConfigError, match=r"teacher.feature_layer: has no use beside teacher.plausible"):
        config_from_dict(
            {
                "students": {"a": {"objective": {"bce": {}, "features": {}}}},
                "teacher": {"kind": "embedded", "plausible": True, "feature_layer": "up.0"},
            }
        )
