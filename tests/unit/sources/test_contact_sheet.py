"""The contact sheet: its size, its contour, and the picture that ships in the docs."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from echodfkd.reporting.figures.contact_sheet import contact_sheet
from echodfkd.sources.phantom.source import default_phantom


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


def test_the_sheet_in_the_docs_is_small() -> None:
    path = Path(__file__).parents[3] / "docs" / "figures" / "phantom_sheet.png"
    assert path.stat().st_size < 1_500_000
    assert Image.open(path).size[0] > 1000
