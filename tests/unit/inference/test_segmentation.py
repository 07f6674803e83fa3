"""Videos of other sizes and rates than the student's, and the beats found in them.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import ClipError, InputError
from echodfkd.inference.segmentation import Segmentation, segment, segment_cine
from echodfkd.inference.student import LoadedStudent, load_student
from echodfkd.metrics.overlap import dice
from echodfkd.models.students.build import build_student
from echodfkd.models.students.output import StudentOutput
from echodfkd.reporting.segmented.mask_files import mask_files
from echodfkd.reporting.segmented.video import shown_facts, video_facts
from echodfkd.sources.video.cine import Cine
from echodfkd.storage.checkpoints import pack_student
from echodfkd.training.initial_weights import StudentFile

OPTIONS = {"blocks": 2, "layers": 1, "filters": 4}
WINDOW = WindowConfig(frames=16, fps=32.0, size=32)


class FakeBright(nn.Module):
    """Marks what is bright: the truth of `disc`."""

    def forward(self, video: torch.Tensor) -> StudentOutput:
        return StudentOutput(((video.float() - 128) / 8).unsqueeze(2))


def fake_student(size: int = 64, fps: float = 32.0) -> LoadedStudent:
    options = StudentConfig(bidirectional=True)  # sees the clip at once
    file = StudentFile("fake", "0" * 64, {}, options, 0, WindowConfig(size=size, fps=fps))
    return LoadedStudent(FakeBright(), ("LV",), size, fps, file)


def disc(radius: np.ndarray, *, height: int, width: int, aspect: float = 1.5) -> np.ndarray:
    """A bright ellipse on black, uint8 (T, H, W); ``radius`` is its short half axis in every frame."""
    y, x = np.mgrid[:height, :width]
    far = np.hypot((y - 0.45 * height) / aspect, x - 0.6 * width)
    return np.where(far[None] < radius[:, None, None], 255, 0).astype(np.uint8)


def saved(folder: Path, **about: object) -> Path:
    torch.manual_seed(0)
    weights = build_student(**OPTIONS).state_dict()  # type: ignore[arg-type]
    path = folder / "student.safetensors"
    path.write_bytes(pack_student(weights, about))  # type: ignore[arg-type]
    return path


def about() -> dict[str, object]:
    return {"network": StudentConfig(**OPTIONS).network, "window": vars(WINDOW)}  # type: ignore[arg-type]


def test_at_its_own_size_and_rate_a_video_has_the_masks_of_the_network(tmp_path: Path) -> None:
    student = load_student(str(saved(tmp_path, **about())))
    video = np.random.default_rng(0).integers(0, 256, (70, 32, 32)).astype(np.uint8)
    with torch.inference_mode():
        prob = student.network(torch.from_numpy(video)[None]).mask_logits.sigmoid()[0, :, 0].numpy()
    found = segment(student, video, fps=32.0)
    # The stream adds the same products in another order: a probability at the border of two codes may take either.
    assert np.abs(found.codes["LV"] - 255.0 * prob).max() < 0.51
    assert found.notes == ()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 160), (161, 90), (40, 48)])
@pytest.mark.parametrize("fps", [32.0, 50.0, 25.0])
def test_a_video_of_another_size_and_rate_comes_back_at_its_own(height: int, width: int, fps: float) -> None:
    """Dice 0.95: at 40 x 48 the ellipse is 12 pixels wide, and half a pixel of its border is 4 % of its area."""
    times = np.arange(100) / fps
    radius = min(height, width) * (0.2 + 0.05 * np.cos(2 * math.pi * times))
    video = disc(radius, height=height, width=width)
    found = segment(fake_student(), video, fps=fps)
    assert found.codes["LV"].shape == video.shape
    assert dice(found.mask(), video > 0).min() > 0.95


def test_beats_rate_and_ejection_fraction_are_those_of_the_curve() -> None:
    """75 beats a minute at 40 frames a second: a beat is 32 frames. Half axes 1 to 0.8: EF 1 - 0.8^3 = 48.8 %."""
    phase = 2 * math.pi * np.arange(120) / 32
    video = disc(30 * (0.9 + 0.1 * np.cos(phase)), height=160, width=160)
    found = segment(fake_student(size=160, fps=0.0), video, fps=40.0, spacing_mm=0.5)
    assert isinstance(found, Segmentation)
    rhythm = found.rhythm
    assert [beat.es_frame for beat in rhythm.beats] == pytest.approx([16, 48, 80, 112], abs=1)
    assert [beat.ed_frame for beat in rhythm.beats] == pytest.approx([0, 32, 64, 96], abs=1)
    assert rhythm.heart_rate_bpm == pytest.approx(75, rel=0.03)
    assert rhythm.ef_percent == pytest.approx(48.8, abs=2)
    # An ellipsoid of revolution with half axes of 15, 15 and 22.5 mm: 4/3 pi abc = 21.2 mL, within the pixels' 2 %.
    assert rhythm.beats[1].edv == pytest.approx(4 / 3 * math.pi * 1.5 * 1.5 * 2.25, rel=0.03)
    assert found.area[32] == pytest.approx(math.pi * 15 * 22.5, rel=0.02)


@pytest.mark.parametrize("lengths", [True, False])
def test_pixels_that_are_not_square_give_the_same_heart(lengths: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The video above with every second row of it: pixels of 1 x 0.5 mm, of which the student sees the true shape.

    Without lengths it is the same heart, in pixels of the same area: half a square millimetre, 0.707 mm a side.
    """
    phase = 2 * math.pi * np.arange(120) / 32
    video = disc(30 * (0.9 + 0.1 * np.cos(phase)), height=160, width=160)
    shown, probabilities = [], LoadedStudent.probabilities

    def watched(student: LoadedStudent, small: np.ndarray) -> np.ndarray:
        shown.append(small)
        return probabilities(student, small)

    monkeypatch.setattr(LoadedStudent, "probabilities", watched)
    scale = {"spacing_mm": (1.0, 0.5)} if lengths else {"pixel_aspect": 0.5}
    found = segment_cine(fake_student(size=160, fps=0.0), Cine(video[:, ::2], 40.0, **scale))  # type: ignore[arg-type]
    area, cube = (1.0, 1.0) if lengths else (2.0, 1000 * 2.0**1.5)
    assert found.mask().shape == (120, 80, 160)
    assert dice(shown[0] > 127, video > 0).min() > 0.95
    assert found.rhythm.ef_percent == pytest.approx(48.8, abs=2)
    assert found.rhythm.beats[1].edv == pytest.approx(cube * 4 / 3 * math.pi * 1.5 * 1.5 * 2.25, rel=0.04)
    assert found.area[32] == pytest.approx(area * math.pi * 15 * 22.5, rel=0.03)
    facts = video_facts(found)
    assert (facts["spacing_mm"], facts["spacing_across_mm"]) == ((1.0, 0.5) if lengths else (None, None))
    assert shown_facts(found)["pixel"] == ("1 mm high, 0.5 mm wide" if lengths else "0.5 times as wide as high")
    ((name, nrrd),) = mask_files("a", found, ["nrrd"])
    directions = b"(0.5,0,0) (0,1,0)" if lengths else b"(0.707106781,0,0) (0,1.41421356,0)"
    assert (name, directions in nrrd) == ("a.seq.nrrd", True)


def test_a_ventricle_that_vanishes_has_no_ejection_fraction() -> None:
    """No heart empties itself: an empty mask at end-systole is a fault of the student."""
    phase = 2 * math.pi * np.arange(96) / 32
    video = disc(np.clip(30 * np.cos(phase), 0, None), height=96, width=96)
    video[video.sum((1, 2)) < 255 * 30] = 0
    found = segment(fake_student(size=96, fps=0.0), video, fps=40.0)
    assert found.rhythm.beats
    assert math.isnan(found.rhythm.ef_percent)
    assert "empty" in [flag.name for flag in found.flags]


def test_what_lies_beside_the_ventricle_is_counted_and_said() -> None:
    """A bright patch of 20 x 20 pixels beside an ellipse of half axes 20 and 30, at the video's own size."""
    video = disc(np.full(12, 20.0), height=128, width=128)
    assert segment(fake_student(size=128), video, fps=32.0).stray_share == 0.0
    video[:, 100:120, 2:22] = 255
    found = segment(fake_student(size=128), video, fps=32.0)
    assert found.stray_share == pytest.approx(400 / (400 + math.pi * 20 * 30), rel=0.01)
    assert dict(found.flags)["parts"].startswith(
        "17.5% of the mask lies outside the part that is largest over the video"
    )
    assert math.isnan(segment(fake_student(), np.zeros((4, 64, 64), np.uint8), fps=32.0).stray_share)


def test_what_is_not_known_is_said_and_not_guessed() -> None:
    video = disc(np.full(20, 10.0), height=64, width=64)
    found = segment(fake_student(), video, fps=0.0)
    assert found.rhythm.beats == ()
    assert math.isnan(found.rhythm.heart_rate_bpm)
    assert "no frame rate" in found.notes[0]
    assert "single frame" in segment(fake_student(), video[:1], fps=32.0).notes[0]
    assert math.isnan(segment(fake_student(), video, fps=32.0).rhythm.ef_percent), "a still heart has no beat"
    for wrong in (video.astype(np.float32), video[0], video[:0]):
        with pytest.raises(ClipError, match="must be uint8"):
            segment(fake_student(), wrong, fps=32.0)


def test_a_size_or_rate_of_no_training_is_a_note(tmp_path: Path) -> None:
    student = load_student(str(saved(tmp_path, **about())), size=64, fps=0.0)
    found = segment(student, np.zeros((4, 50, 60), np.uint8), fps=20.0)
    assert found.notes == (
        "the student runs at 64 pixels and was trained at 32",
        "the student runs at the video's own rate and was trained at 32 frames a second",
    )


def test_a_student_with_a_side_of_its_own_runs_at_it_whatever_size_is_asked_for(tmp_path: Path) -> None:
    """A size between costs a resize of smooth images: it must not cost a student that is always shown the same."""
    path = str(saved(tmp_path, **{**about(), "network": StudentConfig(**OPTIONS, side=32).network}))  # type: ignore[arg-type]
    video = disc(np.full(3, 14.0), height=96, width=96)
    wanted = segment(load_student(path), video, fps=32.0)
    assert load_student(path).size == 32
    for size in (33, 64, 96):
        found = segment(load_student(path, size=size), video, fps=32.0)
        assert found.notes == wanted.notes
        assert np.abs(found.codes["LV"].astype(int) - wanted.codes["LV"]).mean() < 2.0


def test_a_file_that_does_not_say_its_window_needs_it_from_the_user(tmp_path: Path) -> None:
    path = str(saved(tmp_path, network=StudentConfig(**OPTIONS).network))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not say which size and rate it was trained at; give both"):
        load_student(path, size=32)
    assert load_student(path, size=32, fps=32.0).fps == 32.0
    with pytest.raises(InputError, match="--size: got 33, this student needs a multiple of 2"):
        load_student(path, size=33, fps=32.0)
    with pytest.raises(InputError, match="does not describe its network"):
        load_student(str(saved(tmp_path)))
