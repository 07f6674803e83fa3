"""What a notebook gets: students, masks, phantom clips with truth, teachers, and a distillation without Ray."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import echodfkd
from echodfkd.core.errors import ClipError, ConfigError, InputError, RunError
from echodfkd.core.records import VideoClip
from echodfkd.metrics.overlap import dice
from echodfkd.models.teachers.protocol import Teacher, TeacherOutput
from echodfkd.sources.video.encode import encode_avi

NOTEBOOK = Path(__file__).parents[2] / "docs" / "how-to" / "notebook.ipynb"
SMALL: dict[str, Any] = {"frames": 12, "size": 32}


class FakeBright(Teacher):
    """Marks what is bright."""

    teacher_id = "fake-bright"
    class_names = ("background", "LV")

    def teach(self, video_NTHW: np.ndarray, clips: Any = (), **asked: Any) -> TeacherOutput:
        return self.output_of((video_NTHW > 128)[:, :, None].astype(np.float32), video_NTHW, **asked)


def discs() -> Iterator[VideoClip]:
    """Endless clips of bright discs on dark noise."""
    rows, columns = np.mgrid[:32, :32]
    for index in itertools.count():
        rng = np.random.default_rng(index)
        far = np.hypot(rows - rng.uniform(10, 22), columns - rng.uniform(10, 22))
        radius = rng.uniform(5, 9) + np.sin(np.arange(4))
        video = np.where(far < radius[:, None, None], 220, 40) + rng.integers(-20, 20, (4, 32, 32))
        name = f"disc-{index}"
        yield VideoClip(name, index, 0, 0, 0, video.astype(np.uint8), 32.0, "discs", "default")


@pytest.fixture(scope="module")
def student() -> echodfkd.Student:
    run = {"optimizer": {"learning_rate": 0.03}}
    return echodfkd.distil({"blocks": 2, "filters": 3}, FakeBright(), discs(), steps=30, batch=4, run=run)


def test_clips_of_a_generator_follow_from_their_index() -> None:
    options = {"frames": 2, "size": 16, "conditions": {"ef_percent": 40}}
    first, second = itertools.islice(echodfkd.generated("noise", **options), 2)
    (again,) = itertools.islice(echodfkd.generated("noise", **options), 1)
    assert first.video.shape == (2, 16, 16)
    np.testing.assert_array_equal(first.video, again.video)
    assert (first.video != second.video).any()
    assert (first.source, first.conditions.ef_percent, first.truth_labels) == ("noise", 40.0, None)
    made = next(echodfkd.generated(**options, generator={"steps": 1}))
    assert made.source == "latent_video"
    assert made.video.std() > 0
    for kind in ("phantom", "adversarial"):
        with pytest.raises(ConfigError, match=f"^kind: got '{kind}', allowed are echonet_synthetic, .*latent_video"):
            echodfkd.generated(kind)


def test_the_package_is_imported_at_once_and_brings_neither_torch_nor_ray() -> None:
    """0.1 s of the processor: measured inside of the fresh process, without the start of Python."""
    code = (
        "import sys, time; begin = time.process_time(); import echodfkd; took = time.process_time() - begin\n"
        "assert took < 0.1, took\n"
        "assert 'torch' not in sys.modules and 'ray' not in sys.modules and 'numpy' not in sys.modules\n"
        "assert 'load_student' in dir(echodfkd)\n"
        "echodfkd.load_student\n"
        "assert 'ray' not in sys.modules and 'deepspeed' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-800:]


def test_the_package_offers_the_names_of_the_api_and_no_others() -> None:
    assert sorted(echodfkd.__all__) == sorted(echodfkd.api.__all__)
    for name in echodfkd.__all__:
        assert getattr(echodfkd, name) is getattr(echodfkd.api, name)
    with pytest.raises(AttributeError, match="module 'echodfkd' has no attribute 'load_studnet'"):
        echodfkd.load_studnet  # noqa: B018 the access is the test


def test_a_phantom_has_the_truth_and_the_conditions_that_were_asked_for() -> None:
    clip = echodfkd.phantom(3, **SMALL, conditions={"ef_percent": 30, "heart_rate_bpm": 120}, fps=40)
    assert clip.video.shape == (12, 32, 32)
    assert clip.truth_labels is not None
    assert (clip.truth_labels == 1).sum() > 100
    assert clip.conditions.ef_percent == pytest.approx(30)
    assert clip.fps == 40
    again = next(itertools.islice(echodfkd.phantoms(**SMALL), 3, None))
    assert np.array_equal(again.video, echodfkd.phantom(3, **SMALL).video)
    with pytest.raises(ConfigError, match="window"):
        echodfkd.phantom(size=3)


def test_a_distilled_student_has_learnt_from_its_teacher(student: echodfkd.Student) -> None:
    clip = next(itertools.islice(discs(), 500, None))
    assert dice(student.segment(clip).mask(), clip.video > 128).mean() > 0.9
    assert (student.size, student.fps, student.classes) == (32, 32.0, ("LV",))
    assert student.file.step == 30


def test_the_seed_decides_the_weights() -> None:
    def weights(seed: int) -> np.ndarray:
        made = echodfkd.distil(
            {"blocks": 1, "filters": 2},
            echodfkd.load_teacher(),
            echodfkd.phantoms(frames=2, size=16),
            steps=2,
            batch=1,
            run={"seed": seed},
        )
        return np.concatenate([tensor.numpy().ravel() for _, tensor in sorted(made.file.weights.items())])

    assert np.array_equal(weights(0), weights(0))
    assert not np.array_equal(weights(0), weights(1))


def test_what_cannot_train_is_one_sentence() -> None:
    teacher, clips = echodfkd.load_teacher(), list(itertools.islice(echodfkd.phantoms(frames=2, size=16), 3))
    with pytest.raises(RunError, match="the iterator ended after 3 clips, the plan has 4"):
        echodfkd.distil({"blocks": 1, "filters": 2}, teacher, clips, steps=2, batch=2)
    with pytest.raises(InputError, match="the iterator gave no clip"):
        echodfkd.distil({}, teacher, [], steps=1)
    with pytest.raises(ConfigError, match=r"classes: got LA, but the teacher .* gives LV"):
        echodfkd.distil({"blocks": 1, "classes": ["LV", "LA"]}, teacher, clips, steps=1)
    with pytest.raises(ConfigError, match="blocs"):
        echodfkd.distil({"blocs": 1}, teacher, clips, steps=1)
    with pytest.raises(ConfigError, match=r"teacher\.kind"):
        echodfkd.load_teacher("deeplab")


def test_arrays_clips_and_files_give_the_same_masks(student: echodfkd.Student, tmp_path: Path) -> None:
    clip = echodfkd.phantom(5, **SMALL)
    of_clip = student.segment(clip)
    of_array = student.segment(clip.video, fps=clip.fps, spacing_mm=clip.spacing_mm)
    assert np.array_equal(of_clip.mask(), of_array.mask())
    assert of_clip.area.sum() == pytest.approx(of_clip.mask().sum() * clip.spacing_mm**2)
    path = tmp_path / "a.avi"
    path.write_bytes(encode_avi(clip.video, clip.fps))
    of_file = student.segment(path)
    assert (of_file.fps, of_file.mask().shape) == (32.0, clip.video.shape)
    assert (of_file.mask() != of_clip.mask()).mean() < 0.02, "MJPEG changes a grey level, and so the border"
    (tmp_path / "b.avi").write_bytes(encode_avi(clip.video, 20.0))
    with pytest.raises(InputError, match="holds 2 videos; name one"):
        student.segment(tmp_path)
    for wrong, sentence in ((3, "got a int, allowed are an array"), (clip.video[0], "must be uint8")):
        with pytest.raises(ClipError, match=sentence):
            student.segment(wrong)  # type: ignore[arg-type]


def test_a_notebook_shows_a_segmentation(student: echodfkd.Student) -> None:
    clip = echodfkd.phantom(6, **SMALL)
    found = student.segment(clip)
    drawing = found.overlay()
    assert drawing.dtype == np.uint8
    assert drawing.shape[:1] + drawing.shape[2:] == (12, 128, 3)
    with av.open(io.BytesIO(found.overlay_mp4())) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12
    (axes,) = found.plot().axes
    assert np.array_equal(axes.lines[0].get_ydata(), found.area)
    page = found._repr_html_()
    assert "data:video/mp4;base64," in page
    assert "<th>EF</th>" in page
    assert "http" not in page, "nothing is fetched"


def test_a_student_is_exported_and_read_again(student: echodfkd.Student, tmp_path: Path) -> None:
    config = student.export(tmp_path)
    assert [*config["files"]] == ["student.safetensors"]
    clip = echodfkd.phantom(7, **SMALL)
    again = echodfkd.load_student(tmp_path / "student.safetensors")
    assert np.array_equal(again.segment(clip).codes["LV"], student.segment(clip).codes["LV"])


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells as plain code, with two updates in place of its own number."""
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    code = "\n".join("".join(cell["source"]) for cell in cells)
    assert "STEPS = 100" in code
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code.replace("STEPS = 100", "STEPS = 2"), NOTEBOOK.name, "exec"), names)
    assert names["found"].mask().shape == names["clip"].video.shape
    assert (tmp_path / "exported" / "student.safetensors").exists()
