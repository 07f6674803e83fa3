"""The real heart on a run's page: the cine of the installed pydicom with a student's contour, or why there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import InputError
from echodfkd.models.students.build import build_student
from echodfkd.reporting.figures.overlays import STRIP_PX
from echodfkd.reporting.page.real_heart import LISTED, read_real_heart
from echodfkd.reporting.segmented import real_heart
from echodfkd.reporting.segmented.real_heart import draw_real_heart
from echodfkd.sources.video.decode import decode_video
from echodfkd.storage.checkpoints import pack_student
from tests.unit.reporting.test_report_states import bare_run
from tests.unit.reporting.test_reporting import checked_page, fake_scores


def test_the_page_shows_one_real_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = bare_run(tmp_path, [row for row in fake_scores() if row.student == "c31"])
    torch.manual_seed(0)
    network = StudentConfig(blocks=2, layers=1, filters=4).network
    about = {"network": network, "window": vars(WindowConfig(frames=16, fps=32.0, size=32))}
    storage.write("student.safetensors", pack_student(build_student(**network).state_dict(), about))
    assert read_real_heart(storage) == {"missing": "", "videos": []}

    draw_real_heart(storage, ["c31"])
    page = checked_page(storage)
    assert page.tags["video"] == 1
    text = " ".join(page.text.split())
    assert "One person's cine, from the test files of the package pydicom." in text
    assert "c31 frames: 30 of 320 x 240 pixels; mask outside its largest part:" in text
    assert decode_video(storage.read("real/c31.mp4"), name="c31").video.shape == (30, 480 + STRIP_PX, 640)

    (video,) = json.loads(storage.read(LISTED))["videos"]
    for strange, count in (([{"student": "../c31"}, 3, video], 1), ([{**video, "words": 3}], 1), (3, 0)):
        storage.write(LISTED, json.dumps({"videos": strange}).encode())
        assert len(read_real_heart(storage)["videos"]) == count
    storage.write(LISTED, json.dumps({"videos": [video]}).encode())
    storage.write("real/c31.mp4", b"no video")
    with pytest.raises(InputError, match=r"real/c31.mp4 .*; delete it to have the report without it"):
        read_real_heart(storage)

    monkeypatch.setattr(real_heart, "shipped_cine", lambda name: None)
    draw_real_heart(storage, ["c31"])
    sentence = "No real heart is shown: pydicom is not installed, pip install 'echodfkd[medical]'."
    assert read_real_heart(storage) == {"missing": sentence, "videos": []}
