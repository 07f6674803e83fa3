"""The students in the package: small, as their cards say, and good at any size of frame."""

from __future__ import annotations

import hashlib
import json
from importlib import resources

import numpy as np
import pytest

from echodfkd.core.errors import InputError
from echodfkd.inference.export.folder import export_folder
from echodfkd.inference.segmentation import segment
from echodfkd.inference.student import load_student
from echodfkd.metrics.overlap import dice
from echodfkd.models.students.convlstm import count_parameters
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.sources.video.windows import resize_video
from echodfkd.training.conversion import SHIPPED_STUDENTS

MOST_WEIGHTS = {"embedded_large": 174_721, "embedded_small": 39_577}
"""Those of the paper's convlstm_3x1 and convlstm_2x1."""
LEAST_DICE = 0.9
"""On a drawn heart of the domain default that they were not trained on."""


@pytest.mark.parametrize("name", SHIPPED_STUDENTS)
def test_it_is_what_its_card_says(name: str) -> None:
    weights = resources.files("echodfkd").joinpath("weights")
    data, card = (weights.joinpath(f"{name}_student.{end}").read_bytes() for end in ("safetensors", "json"))
    student, known = load_student(name), json.loads(card)
    assert hashlib.sha256(data).hexdigest() == known["sha256"] == student.file.sha256
    assert known["network"] == student.file.options.network  # type: ignore[union-attr]
    assert known["parameters"] == count_parameters(student.network) <= MOST_WEIGHTS[name]
    assert (student.size, student.fps) == (56, 0.0)


@pytest.mark.parametrize("name", SHIPPED_STUDENTS)
def test_it_finds_the_ventricle_at_any_size(name: str) -> None:
    case = default_phantom(seed=3, num_frames=1, fps=30.0, size=112, case_frames=24).case(0)
    found = {}
    for size in (80, 112, 160):
        masks = segment(load_student(name), resize_video(case.video, size), fps=30.0).mask().astype(np.uint8)
        found[size] = dice(resize_video(255 * masks, 112) > 127, case.truth_labels == 1).mean()
    assert min(found.values()) > LEAST_DICE, found
    assert max(found.values()) - min(found.values()) < 0.02, found


def test_its_files_take_its_own_side_only(tmp_path: object) -> None:
    with pytest.raises(InputError, match="--size: got 112, but this student works at 56 pixels; its files take no"):
        export_folder(load_student("embedded_small", size=112), f"{tmp_path}/out", formats=["stream"])
