"""The domain of many looks: pure, its truth exact and independent of how a clip looks, and every range in use."""

import dataclasses
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from echodfkd.core.records import CHAMBER_NAMES, VideoClip
from echodfkd.sources.phantom.renderer import Patient
from echodfkd.sources.phantom.source import PhantomSource, default_phantom
from echodfkd.sources.phantom.wild import ranges as ranges_module
from echodfkd.sources.phantom.wild.heart import angles, draw_shape
from echodfkd.sources.phantom.wild.ranges import WildDraws, WildRanges
from echodfkd.sources.phantom.wild.renderer import render_wild
from echodfkd.sources.phantom.wild.rhythm import draw_rhythm
from tests.benchmarks.phantom_proofs import best_threshold_dice

LV, LA, RV = (CHAMBER_NAMES.index(name) for name in ("LV", "LA", "RV"))


def make_source(seed: int = 0, size: int = 48, frames: int = 2, fps: float = 2.0) -> PhantomSource:
    return default_phantom(seed=seed, num_frames=frames, fps=fps, size=size, case_frames=40, domain="wild")


def patient(index: int, **changes: float) -> Patient:
    made = make_source(seed=6).patient(index)[0]
    return replace(made, conditions=replace(made.conditions, **changes), start_phase=0.0)


def fixed(**changes: object) -> WildRanges:
    """Ranges of a plain, upright heart in the middle of the sector, with a regular beat, but for the changes."""
    plain = {
        "centre": (0.0, 0.0),
        "lean": (0.0, 0.0),
        "foreshortening": (1.0, 1.0),
        "rotation": (1.0, 1.0),
        "warp": (0.0, 0.0),
        "slope": (0.0, 0.0),
        "bend": (0.0, 0.0),
        "apex_shift": (0.0, 0.0),
        "rocking": (0.0, 0.0),
        "breathing": (0.0, 0.0),
        "shake": (0.0, 0.0),
        "irregular": (0.0, 0.0),
        "half_angle": (48.0, 48.0),
        "uneven": (1.0, 1.0),
        "share": (0.4, 0.4),
        "apex_depth": (30.0, 34.0),
        "depth": (1.2, 1.2),
        **dict.fromkeys(("plain", "mirrored", "aneurysm", "akinesia", "fibrillation", "premature", "pause"), 0.0),
    }
    return WildRanges(**{**plain, **changes})


@pytest.fixture(scope="module")
def clips() -> list[VideoClip]:
    source = make_source(seed=5)
    return [source.clip(index) for index in range(60)]


def test_a_clip_is_a_function_of_its_identity() -> None:
    """Again, on other threads, and the same first frames of a longer clip, which is rendered in other parts."""
    short, long = make_source(size=112, frames=3, fps=20.0), make_source(size=112, frames=12, fps=20.0)
    threads = torch.get_num_threads()
    for index in (7,):
        clip, longer = short.clip(index), long.clip(index)
        torch.set_num_threads(3 - min(threads, 2))
        try:
            again = make_source(size=112, frames=3, fps=20.0).clip(index)
        finally:
            torch.set_num_threads(threads)
        for other in (again.video, longer.video[:3]):
            assert np.array_equal(clip.video, other)
        assert np.array_equal(clip.truth_labels, longer.truth_labels[:3])
        assert clip.clip_id == f"phantom-wild-s0-i{index}-e0-w0"
        assert clip.video.dtype == clip.truth_labels.dtype == np.uint8
        assert clip.class_names == CHAMBER_NAMES
    assert len({short.clip(index).video.tobytes() for index in range(4)}) == 4


def test_the_ventricle_has_the_volumes_of_its_conditions() -> None:
    """V = 8 A^2 / (3 pi L) on the label map: A its pixels, L its rows at the middle.

    The outline is chosen in 128 angles and the map in pixels of 1.1 mm, so that 5 % of the volume is allowed.
    """
    for index, ef in ((0, 60.0), (1, 35.0), (2, 20.0)):
        one = patient(index, ef_percent=ef, edv_ml=120.0, esv_ml=120.0 * (1.0 - ef / 100.0), heart_rate_bpm=60.0)
        made = render_wild(replace(one, fps=20.0), num_frames=20, size=176, ranges=fixed())
        mask = made.labels.numpy() == LV
        area = mask.sum((1, 2)) * made.spacing_mm**2
        rows = mask.any(2).sum(1) * made.spacing_mm
        volume = 8.0 * area**2 / (3.0 * math.pi * rows) / 1000.0
        np.testing.assert_allclose(volume, made.volume_ml.numpy(), rtol=0.05)
        assert volume[0] == pytest.approx(120.0, rel=0.05)
        assert volume.min() == pytest.approx(120.0 * (1.0 - ef / 100.0), rel=0.05)
        assert made.ed_frames[0] == 0
        assert area[made.es_frames[0]] <= 1.02 * area.min()


def test_truth_is_that_of_the_anatomy_whatever_the_image_shows() -> None:
    """Papillary muscles, trabeculae, tendons, drop-out, contrast and furniture leave the label map as it is."""
    bare = WildRanges(
        papillary=(0.0, 0.0),
        trabeculae=(0.0, 0.0),
        tendon=0.0,
        chordae=0.0,
        dropouts=(0.0, 0.0),
        any_contrast=1.0,
        ruler=0.0,
        text=0.0,
        ecg=0.0,
    )
    for index in range(4):
        full, plain = (render_wild(patient(index), num_frames=2, size=48, ranges=r) for r in (WildRanges(), bare))
        assert torch.equal(full.labels, plain.labels)
        assert not torch.equal(full.video, plain.video)


def test_papillary_muscles_lie_in_the_ventricle() -> None:
    """The only difference that they make to the image is inside the label: the codec and the beam reach 8 pixels on."""
    for index in range(3):
        thick, none = (
            render_wild(patient(index), num_frames=1, size=64, ranges=fixed(papillary=(r, r), chordae=0.0, reduced=0.0))
            for r in (5.0, 0.0)
        )
        changed = (thick.video.int() - none.video.int()).abs() > 12
        lv = thick.labels[0] == LV
        near = torch.nn.functional.max_pool2d(lv[None, None].float(), 17, stride=1, padding=8)[0, 0] > 0
        assert not (changed[0] & ~near).any()


def test_labels_lie_in_their_places(clips: list[VideoClip]) -> None:
    """Nothing outside the sector or below the annulus is left ventricle; the right one is at its side, atria below."""
    mirrored = 0
    for clip in clips:
        labels = clip.truth_labels[0]
        assert set(np.unique(labels)) <= set(range(6))
        assert 0.015 < (labels == LV).mean() < 0.5
        place = {k: np.argwhere(labels == k).mean(0) for k in (LV, LA, RV) if (labels == k).sum() > 20}
        if LA in place:
            assert place[LA][0] > place[LV][0]
        if RV in place:
            mirrored += place[RV][1] > place[LV][1]
        assert (clip.conditions.view == "A2C") <= (not (labels == RV).any())
    assert 0 < mirrored < 12


def test_nothing_is_labelled_where_there_is_no_image() -> None:
    one = fixed(half_angle=(34.0, 34.0), share=(0.7, 0.7), apex_depth=(3.0, 3.0), probe_y=(0.0, 0.0))
    made = render_wild(patient(3), num_frames=1, size=64, ranges=one)
    columns, rows = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    draw = WildDraws(patient(3).key, one)
    beam = np.degrees(np.arctan2(columns / 64 - draw("probe_x"), rows / 64))
    labels = made.labels[0].numpy()
    assert (labels == LV).any()
    assert not labels[np.abs(beam) > 36.0].any()
    apex = np.argwhere(labels == LV)[:, 0].min()
    assert apex <= 8  # the sector cuts it off


def test_no_brightness_can_be_trusted(clips: list[VideoClip]) -> None:
    """The wall is brighter in about half of the clips and darker in some; no threshold finds the ventricle."""
    brighter = [
        float(np.median(clip.video[clip.truth_labels == 2]) - np.median(clip.video[clip.truth_labels == LV]))
        for clip in clips
    ]
    assert 0.35 < np.mean([value > 4 for value in brighter]) < 0.95
    assert np.mean([value < 0 for value in brighter]) > 0.02
    video = np.stack([clip.video for clip in clips])
    truth = np.stack([clip.truth_labels for clip in clips]) == LV
    assert best_threshold_dice(video, truth) <= 0.5


def test_hearts_lie_and_look_differently(clips: list[VideoClip]) -> None:
    """Spread over the clips of place, size and brightness, against that of the default scanner on the same patients."""

    def spread(found: list[VideoClip]) -> np.ndarray:
        rows = []
        for clip in found:
            mask = clip.truth_labels[0] == LV
            tall, wide = np.argwhere(mask).std(0)
            rows.append([*np.argwhere(mask).mean(0), mask.mean(), wide / tall, clip.video[0].mean()])
        return np.std(rows, axis=0)

    plain = default_phantom(seed=5, num_frames=1, fps=2.0, size=48, case_frames=4)
    assert (spread(clips) > 1.5 * spread([plain.clip(index) for index in range(60)])).all()


def test_every_range_is_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: set[str] = set()
    for name in ("__call__", "chance"):
        inner = getattr(WildDraws, name)

        def spy(self: WildDraws, name: str, *rest: int, inner: object = inner) -> object:
            drawn.add(name)
            return inner(self, name, *rest)

        monkeypatch.setattr(ranges_module.WildDraws, name, spy)
    always: dict[str, object] = {item.name: 1.0 for item in fields(WildRanges) if isinstance(item.default, float)}
    always |= dict.fromkeys(("dropouts", "fogs", "shadows"), (1.0, 1.0))  # numbers of things, which may be 0
    always["plain"] = 0.0
    for index in range(2):
        render_wild(patient(index), num_frames=1, size=32, ranges=replace(WildRanges(), **always))
        render_wild(patient(index), num_frames=1, size=32, ranges=replace(WildRanges(), any_contrast=0.0))
    assert drawn == {item.name for item in fields(WildRanges)}


@pytest.mark.parametrize("end", [0, 1])
def test_both_ends_of_every_range_can_be_drawn(end: int) -> None:
    """All ranges at one end at once: an image with a ventricle, in which not everything is black or white."""
    chosen = {
        item.name: (item.default[end], item.default[end]) if isinstance(item.default, tuple) else float(end)
        for item in fields(WildRanges)
    }
    chosen |= {"gain": (10.0, 10.0), "dynamic_range": (55.0, 55.0)}  # all losses at once leave nothing else to see
    chosen["plain"] = 0.0
    made = render_wild(patient(1), num_frames=2, size=48, ranges=WildRanges(**chosen))
    assert (made.labels == LV).any()
    assert made.video.float().std() > 2.0


def rhythm_of(one: Patient, **changes: float):
    ranges = fixed(**changes)
    return draw_rhythm(one.conditions, one.key, WildDraws(one.key, ranges), fps=200.0, num_frames=1600, start=0.0)


def test_rhythms() -> None:
    """A regular beat keeps its rate; faults change the lengths of beats, and volumes stay continuous and in bounds."""
    for index in range(4):
        one = patient(index, heart_rate_bpm=75.0, edv_ml=100.0, esv_ml=40.0, ef_percent=60.0)
        regular = rhythm_of(one)
        assert regular.phase[-1] == pytest.approx((1599 / 200) / 0.8, abs=0.02)
        assert (float(regular.volume_ml.min()), float(regular.volume_ml.max())) == pytest.approx((40.0, 100.0), abs=0.5)
        for fault in ("fibrillation", "premature", "pause"):
            found = rhythm_of(one, **{fault: 1.0})
            assert (found.phase.diff() > 0).all()
            # mL in 5 ms: the atrial kick of a short beat is the fastest change
            assert found.volume_ml.diff().abs().max() < 8.0
            assert 25.0 < found.volume_ml.min() < found.volume_ml.max() <= 100.5
            beats = [float((found.phase.floor() == n).sum()) / 200 for n in range(int(found.phase[-1]))]
            assert np.std(beats) > 0.03
            if fault == "pause":
                assert max(beats) > 1.5 * 0.8
            if fault == "premature":
                assert min(beats) < 0.88 * 0.8
        late = rhythm_of(one, fibrillation=1.0).valve[regular.phase.remainder(1.0) > 0.97]
        assert late.max() <= regular.valve.max()


@pytest.mark.parametrize("ef", [20.0, 65.0])
def test_the_long_axis_shortens_with_the_ejection_fraction(ef: float) -> None:
    """Apex and annulus approach each other; the apex does so inside of a wall whose outer border stays."""
    one = patient(2, heart_rate_bpm=75.0, edv_ml=100.0, esv_ml=100.0 - ef, ef_percent=ef)
    draw = WildDraws(one.key, fixed(shortening=(0.3, 0.3), apex_motion=(0.5, 0.5)))
    rhythm = draw_rhythm(one.conditions, one.key, draw, fps=50.0, num_frames=40, start=0.0)
    shape = draw_shape(one.conditions, rhythm, draw)
    filled, empty = rhythm.ejected.argmin(), rhythm.ejected.argmax()
    moved = 0.15 * ef / 100.0 * shape.rest_length
    assert float(shape.apex[empty]) == pytest.approx(moved, abs=0.1)
    assert shape.rest_length - float(shape.length[empty]) == pytest.approx(moved, abs=0.1)
    tip = angles().abs().argmin()
    inner, outer = (shape.centre - table[:, tip] for table in (shape.endo, shape.epi))
    assert float(inner[empty] - inner[filled]) == pytest.approx(moved, rel=0.5)
    assert abs(float(outer[empty] - outer[filled])) < 0.5


def test_plain_clips_show_the_border_well_and_keep_ranges_that_were_chosen() -> None:
    draw = WildDraws(3, WildRanges(plain=1.0, share=(0.8, 0.8)))
    assert (draw("share"), draw("dropouts"), draw.chance("any_contrast")) == (0.8, 0.0, False)
    shares = [WildDraws(key, WildRanges())("dropouts") == 0.0 for key in range(400)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)


def test_ranges_are_frozen_numbers() -> None:
    assert dataclasses.is_dataclass(WildRanges)
    for item in fields(WildRanges):
        value = item.default
        if isinstance(value, float):
            assert 0.0 <= value <= 1.0
        else:
            assert all(math.isfinite(number) for number in value)
            assert len(value) in (2, 3)
