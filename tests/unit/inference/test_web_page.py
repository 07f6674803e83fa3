"""The page that runs a student in a browser: its numbers are onnxruntime's, and no request leaves it.

Skips itself without Chromium or without the npm registry.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echodfkd.core.errors import InputError, RunError
from echodfkd.inference.beats import find_rhythm
from echodfkd.inference.export.graphs import stream_onnx
from echodfkd.inference.export.sessions import open_session, run_stream
from echodfkd.inference.export.web import page
from echodfkd.inference.flags import find_flags
from echodfkd.inference.signals import mask_signals
from echodfkd.inference.student import load_student
from echodfkd.metrics.volume import area_length_volume
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.sources.video.encode import encode_mp4
from tests.helpers.chromium import Browser, chromium_path
from tests.unit.inference.test_export import saved

SIZE, FPS = 16, 32.0
ROWS, COLUMNS = np.mgrid[:64, :64]
CALL = """(async () => {
  const [ort, session] = await echodfkd.opened, stream = new echodfkd.Stream(ort, session), logits = [];
  const bytes = Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0)), n = STUDENT.size ** 2;
  for (let t = 0; t < bytes.length / n; t++)
    logits.push(Array.from(await stream.step(Float32Array.from(bytes.slice(t * n, (t + 1) * n)))));
  return { logits, area: stream.area };
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not chromium_path():
        pytest.skip("no chromium")
    browser = Browser(tmp_path_factory.mktemp("browser"))
    browser.view(360)
    yield browser
    browser.close()


@pytest.fixture
def shell(browser: Browser, tmp_path: Path) -> Browser:
    """The page around files that are no onnxruntime-web: everything but the network itself."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as tar:
        for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
            tar.addfile(tarfile.TarInfo(f"package/dist/{name}"))
    student = load_student(saved(tmp_path))
    (tmp_path / "index.html").write_bytes(page.build_page(student, b"", sink.getvalue()))
    browser.open(tmp_path / "index.html")
    return browser


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """The whole page of a small student as a file, and its stream as ONNX."""
    try:
        runtime = page.fetch_runtime()
    except RunError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("web")
    student = load_student(saved(folder, shows_masks=True))
    stream = stream_onnx(student.network, 2, {})
    (folder / "index.html").write_bytes(page.build_page(student, stream, runtime))
    return folder / "index.html", stream


@pytest.fixture
def opened(browser: Browser, whole: tuple[Path, bytes]) -> tuple[Browser, bytes]:
    """The browser at the whole page, and its stream."""
    path, stream = whole
    browser.open(path)
    return browser, stream


@pytest.mark.slow  # 33 MB from the registry
def test_its_logits_and_areas_are_those_of_onnxruntime(opened: Any) -> None:
    browser, stream = opened
    video = default_phantom(seed=1, num_frames=32, fps=FPS, size=SIZE, case_frames=32).clip(0).video
    found = browser.evaluate(CALL % base64.b64encode(video.tobytes()).decode())
    wanted = run_stream(open_session(stream), video[None])[0, :, 0]
    np.testing.assert_allclose(np.array(found["logits"]).reshape(wanted.shape), wanted, atol=1e-4)
    assert found["area"] == (wanted > 0).sum((1, 2)).tolist()


@pytest.mark.parametrize("frames", [90, 300])
def test_its_rhythm_is_that_of_the_package(shell: Browser, frames: int) -> None:
    """The same curves of area and volume: ellipses that beat, with noise, a slow drift and a plateau, at many rates."""
    curves, known = [], []
    for number, beat_frames in enumerate((14, 19, 25, 33, 40)):
        rng = np.random.default_rng(number)
        phase = 2 * np.pi * np.arange(frames) / beat_frames + rng.uniform(0, 6)
        drift = np.sin(np.arange(frames) / rng.uniform(40, 80))
        radius = 18 + 3 * np.clip(np.cos(phase), -1, 0.6) + drift + rng.normal(0, 0.15, frames)
        mask = np.hypot((ROWS - 31.5) / 1.4, COLUMNS - 31.5)[None] < radius[:, None, None]
        curves.append([mask.sum((1, 2)).tolist(), area_length_volume(mask).tolist()])
        known.append(find_rhythm(mask, fps=FPS, sides=1.0, in_mm=False))
    found = shell.evaluate(f"{json.dumps(curves)}.map((pair) => echodfkd.rhythm(...pair))")
    assert min(len(one.beats) for one in known) >= 1
    for mine, theirs in zip(found, known, strict=True):
        assert (mine["ed"], mine["es"]) == (list(theirs.ed_frames), list(theirs.es_frames))
        assert mine["beats"] == [[beat.ed_frame, beat.es_frame] for beat in theirs.beats]
        assert mine["rate"] == pytest.approx(theirs.heart_rate_bpm)
        assert mine["ef"] == pytest.approx(theirs.ef_percent)


@pytest.mark.parametrize(
    ("steep", "noise", "names"),
    [(8.0, 0.0, {"large"}), (8.0, 3.0, {"large", "jumps"}), (1.0, 0.0, {"large", "unsure"})],
)
def test_its_flags_are_those_of_the_package(shell: Browser, steep: float, noise: float, names: set[str]) -> None:
    """A large disc that beats, sure, in noise or unsure: the page shows the flags that need only the masks."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    radius = 5 + np.cos(2 * np.pi * np.arange(80) / 24)
    logits = steep * np.clip(radius[:, None, None] - np.hypot(rows - 7.5, columns - 7.5), -1, 1)
    logits = (logits + noise * np.random.default_rng(0).normal(size=logits.shape)).astype(np.float32)
    found = shell.evaluate(
        f"""(() => {{
          const stream = new echodfkd.Stream({{ Tensor: class {{}} }}, null);
          for (const frame of {json.dumps(logits.reshape(80, -1).tolist())}) stream.add(Float32Array.from(frame));
          return echodfkd.flags(stream, echodfkd.rhythm(stream.area, stream.volume));
        }})()"""
    )
    rhythm = find_rhythm(logits > 0, fps=FPS, sides=1.0, in_mm=False)
    signals = mask_signals(1 / (1 + np.exp(-logits.astype(np.float64))))
    rate = {"beat": float(len(rhythm.beats)), "slow": rhythm.heart_rate_bpm, "fast": rhythm.heart_rate_bpm}
    wanted = find_flags({**{name: signals[name] for name in ("unsure", "jumps", "small", "large")}, **rate})
    assert found == [list(flag) for flag in wanted]
    assert {flag.name for flag in wanted} == names


@pytest.mark.slow
def test_a_video_file_is_segmented_and_nothing_is_asked_of_a_network(opened: Any, tmp_path: Path) -> None:
    browser, stream = opened
    video = default_phantom(seed=1, num_frames=24, fps=FPS, size=SIZE, case_frames=24).clip(1).video
    large = np.kron(video, np.ones((1, 4, 4), np.uint8))
    mp4 = base64.b64encode(encode_mp4(large, FPS)).decode()
    plays = browser.evaluate("document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.42E01E\"')")
    if not plays:
        pytest.skip("this browser has no H.264")
    found = browser.evaluate(
        f"""(async () => {{
          const bytes = Uint8Array.from(atob("{mp4}"), (c) => c.charCodeAt(0));
          const stream = await echodfkd.openFile(new File([bytes], "a.mp4", {{ type: "video/mp4" }}));
          return [stream.area, document.getElementById("status").textContent];
        }})()"""
    )
    area, status = found
    wanted = (run_stream(open_session(stream), video[None])[0, :, 0] > 0).sum((1, 2))
    assert status == "Done: 24 frames"
    assert np.abs(np.array(area) - wanted).mean() < 0.1 * wanted.mean(), "H.264 and two resizes change grey levels"
    assert [url for url in browser.requests if not url.startswith(("file:", "blob:", "data:"))] == []
    assert browser.errors == []


def test_a_file_that_is_no_video_is_one_sentence(shell: Browser) -> None:
    told = shell.evaluate(
        "echodfkd.openFile(new File(['text'], 'a.mp4', { type: 'video/mp4' })).catch((error) => error.message)"
    )
    assert told == "the browser cannot play this video; MP4 (H.264) and WebM work in most"


def test_it_fits_a_phone(shell: Browser) -> None:
    assert shell.evaluate("document.documentElement.scrollWidth") <= 360


def test_other_bytes_than_the_pinned_ones_and_students_without_a_stream_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has the sha256 5feceb66"):
        page.checked_runtime(b"0")
    with pytest.raises(InputError, match=r"^--web: this student is bidirectional"):
        page.export_page(load_student(saved(tmp_path, bidirectional=True)), str(tmp_path / "web"))
    assert not (tmp_path / "web").exists()
