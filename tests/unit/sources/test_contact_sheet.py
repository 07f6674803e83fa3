"""The contact sheet: its size, its contour, and the picture that ships in the docs."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from echodfkd.reporting.figures.contact_sheet import contact_sheet
from echodfkd.reporting.figures.overlays import teacher_row
from echodfkd.sources.phantom.source import default_phantom
from jobs.phantom_sheet import draw


def test_sheet_shows_three_frames_of_each_clip_and_the_contour() -> None:
    source = default_phantom(seed=1, num_frames=4, fps=32.0, size=56, case_frames=60)
    clips = [source.case(index) for index in range(3)]
    picture = np.asarray(Image.open(io.BytesIO(contact_sheet(clips, columns=2))).convert("RGB")).astype(int)
    assert picture.shape == (2 * (14 + 56 + 3), 2 * (3 * 56 + 4), 3)
    yellow = (picture[..., 0] > 200) & (picture[..., 2] < 60)
    first = yellow[14 : 14 + 56]
    assert first[:, :56].sum() > 30  # end-diastole carries the contour
    assert first[:, 56:168].sum() == 0
    assert picture[-60:, -160:].max() == 0  # the fourth place is empty


def test_a_row_of_hearts_has_the_contours_of_truth_and_teacher() -> None:
    """Both lie within 4 pixels of the clip from the true border: a Dice above 0.9 has it."""
    clips = [draw(number, 55.0, 0.95, "default", 3) for number in range(2)]
    picture = np.asarray(Image.open(io.BytesIO(teacher_row(clips, "embedded"))).convert("RGB")).astype(int)
    assert picture.shape == (224, 2 * 224, 3)
    white, orange = picture.min(-1) > 240, (picture[..., 0] - picture[..., 2]) > 150
    for clip, tile in zip(clips, (np.s_[:, :224], np.s_[:, 224:]), strict=True):
        truth = np.kron(clip.truth_labels[clip.ed_frames[0]] == 1, np.ones((2, 2), bool))
        near = ndimage.binary_dilation(truth, iterations=8) & ~ndimage.binary_erosion(truth, iterations=8)
        for contour in (white[tile], orange[tile]):
            assert 100 < contour.sum() < 2000
            assert near[contour].mean() > 0.95


@pytest.mark.parametrize(("name", "size", "width"), [("phantom_sheet", 1_500_000, 1001), ("overlays", 150_000, 896)])
def test_the_pictures_in_the_docs_are_small(name: str, size: int, width: int) -> None:
    path = Path(__file__).parents[3] / "docs" / "figures" / f"{name}.png"
    assert path.stat().st_size < size
    assert Image.open(path).size[0] >= width
