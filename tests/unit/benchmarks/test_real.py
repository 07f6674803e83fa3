"""The shipped teacher on real cines, which are read out of the installed packages; and the Dice of side-by-side clips.

Numbers of one person's cine are no proof of accuracy: they keep what once held.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from echodfkd.core.errors import InputError
from echodfkd.inference.beats import Rhythm
from echodfkd.sources.video.shipped_cine import LONG, SHORT, shipped_cine
from tests.benchmarks import domain_gap
from tests.benchmarks.real_cine import CineScore, crops, score_cine, score_crop
from tests.benchmarks.side_by_side import (
    ClipScore,
    PaintedClip,
    read_painted_clips,
    score_clip,
    size_slope,
    teacher_masks,
    teacher_of,
)


def test_the_shipped_teacher_sees_one_ventricle_in_a_real_heart() -> None:
    """At three crops, as it is and as a plausible teacher."""
    cine = shipped_cine(SHORT)
    assert cine is not None
    for score in score_cine(teacher_masks(teacher_of("embedded_wild")), cine, side=80):
        assert score.stray <= 0.01, score
        assert score.in_order, score
    for score in score_cine(teacher_masks(teacher_of("embedded_wild", plausible=True)), cine, side=80):
        assert (score.stray, score.parts) == (0.0, 1), score


def test_the_beats_of_a_real_heart() -> None:
    """Four to five beats at about 65 a minute; at the crop that is filled by the sector, as in training."""
    cine = shipped_cine(LONG)
    if cine is None:
        pytest.skip("pydicom-data is not installed")
    video = dict(crops(cine.video))["tight"]
    plausible = teacher_masks(teacher_of("embedded_wild", plausible=True))
    score = score_crop(plausible, "tight", video, fps=cine.fps, side=80)
    assert (score.stray, score.parts) == (0.0, 1)
    assert score.in_order
    assert 60 <= score.rhythm.heart_rate_bpm <= 70
    assert len(score.rhythm.ed_frames) in (4, 5)


def test_events_in_order_take_turns() -> None:
    def in_order(ed: tuple[int, ...], es: tuple[int, ...]) -> bool:
        return CineScore("", 0.0, 1, Rhythm(ed, es, (), 60.0)).in_order

    assert in_order((1, 20), (10, 30))
    assert in_order((), (10,))
    assert not in_order((1, 5), (10,))
    assert not in_order((1,), (1,))


def painted(path: Path, *, size: int = 64) -> None:
    """A lossless clip of two squares; the right one has a blue box of 20 x 20 pixels in its left half."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=30, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 2 * size, size, "rgb24"
        for level in range(40, 104):
            picture = np.full((size, 2 * size, 3), level, np.uint8)
            picture[20:40, size + 10 : size + 30] = (20, 30, 200)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_masks_are_scored_against_the_painted_ones(tmp_path: Path) -> None:
    painted(tmp_path / "a.mp4")
    (clip,) = read_painted_clips(str(tmp_path))
    assert clip.video.shape == clip.mask.shape == (64, 64, 64)
    assert clip.video[5, 0, 0] == 45
    assert clip.mask[3].sum() == 400
    assert clip.mask[3, 20:40, 10:30].all()

    def half_and_a_patch(video: np.ndarray, side: int, fps: float) -> np.ndarray:
        mask = np.zeros(video.shape, bool)
        mask[:, 20:40, 10:20] = mask[:, 50:60, 50:60] = True
        return mask

    score = score_clip(half_and_a_patch, clip, side=0, every=4)
    assert score.dice == pytest.approx(2 * 200 / (400 + 300))
    assert score.one_part == pytest.approx(2 * 200 / (400 + 200))
    assert score.area == pytest.approx(300 / 400)
    assert score.painted == pytest.approx(400 / 64**2)
    assert score.stray == pytest.approx(1 / 3)
    assert (score.filled, score.emptied) == pytest.approx((300 / 400, 300 / 400))
    beating = PaintedClip("", clip.video[:20], np.zeros_like(clip.mask[:20]))
    for frame, rows in enumerate([16] * 18 + [4] * 2):  # areas of 320 pixels, twice of 80
        beating.mask[frame, 20 : 20 + rows, 10:30] = True
    score = score_clip(half_and_a_patch, beating, side=0, every=1)
    assert (score.filled, score.emptied) == pytest.approx((300 / 320, 300 / 80))
    with pytest.raises(InputError, match=r"--clips: .* holds no \.mp4 file"):
        read_painted_clips(str(tmp_path / "nothing"))


def test_the_slope_of_size_tells_shrinkage_from_a_margin() -> None:
    """Areas that go with the root of the painted one have slope 0.5, those that are all 20 % too large slope 1."""

    def clips(area_of: Callable[[float], float]) -> list[ClipScore]:
        return [ClipScore("", 0.9, 0.9, area_of(size) / size, size, 0.0, 1.0, 1.0) for size in (0.05, 0.1, 0.2)]

    assert size_slope(clips(lambda size: 0.3 * size**0.5)) == pytest.approx(0.5)
    assert size_slope(clips(lambda size: 1.2 * size)) == pytest.approx(1.0)
    assert np.isnan(size_slope(clips(lambda size: 0.0)))


def test_correlations_over_teachers_and_over_their_families() -> None:
    """Real Dice rises with that on `wild`, falls with that on `default`; the two saves of run a count once."""
    rows = [
        {"family": family, "trained_on": "default", "default": str(0.9 - 0.1 * x), "clear": "0.9",
         "handheld": str(x), "wild": str(x), "real": str(0.5 + 0.2 * x)}
        for family, x in (("a", 0.1), ("a", 0.3), ("b", 0.5), ("c", 0.9))
    ]  # fmt: skip
    found = domain_gap.correlations(rows)
    for name, sign in (("wild", 1), ("default", -1), ("unseen", 1)):
        assert found[name]["pearson"].mean == pytest.approx(sign)
        assert found[name]["spearman"].mean == pytest.approx(sign)
    assert np.isnan(found["clear"]["pearson"].mean)
    assert (found["wild"]["pearson"].n, found["wild"]["pearson_of_families"].n) == (4, 3)
    with pytest.raises(InputError, match="--teachers: got embedded, expected KIND or FILE, a colon"):
        domain_gap.who("embedded", 112)
    assert domain_gap.who("x/run1/step-5.safetensors:wild,default", 56) == {
        "family": "run1",
        "teacher": "step-5",
        "trained_on": "default wild",
        "side": "56",
    }
