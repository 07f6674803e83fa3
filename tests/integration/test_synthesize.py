"""Clips written to a folder on a real cluster: killed and resumed, read by others, refused where they cannot be."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import ray
import skimage.draw

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError, InputError, RunError
from echodfkd.runtime.stream.builders import synthesis_source
from echodfkd.runtime.synthesis_run import run_synthesis, shards_of
from echodfkd.sources.video.decode import decode_video
from echodfkd.sources.written.stored import merge_lists
from echodfkd.storage.files import RunStorage
from tests.helpers.echonet import write_small_folder
from tests.helpers.stored import check_folder, read_shard

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

ROOT = Path(__file__).parents[2]
SMALL = [
    "window.size=56",
    "window.fps=32",
    "synthesize.clips=24",
    "synthesize.frames=16",
    "synthesize.shard_clips=1",
    "synthesize.preview=4",
    "ray.progress_s=0",
]


def quiet(line: str) -> None:
    pass


def request(out: Path, *overrides: str) -> RunConfig:
    return load_config(None, [*SMALL, "synthesize.num_cpus=4", *overrides, f"synthesize.out={out}"])


def tree(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, but for the lease: who wrote when is no part of what was asked for."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent != folder / "lease"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def start_and_kill(out: Path, overrides: list[str], *, after_shards: int) -> int:
    """Start the job in a process of its own, kill it with SIGKILL, wait for its cluster to end. Returns commits."""
    command = [sys.executable, "jobs/synthesize.py", *overrides, f"synthesize.out={out}", "ray.address=local"]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    driver = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.time() + 90
    while len(list(out.glob("shards/*.json"))) < after_shards:
        assert driver.poll() is None, driver.stderr and driver.stderr.read()
        assert time.time() < deadline, "no shard was committed"
        time.sleep(0.01)
    children = psutil.Process(driver.pid).children(recursive=True)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    for orphan in psutil.wait_procs(children, timeout=5)[1]:  # workers end with their driver, Ray's agents linger
        orphan.kill()
    return len(list(out.glob("shards/*.json")))


def prove_resume(tmp_path: Path, overrides: list[str], *, clips: int, after_shards: int) -> None:
    """A killed and resumed folder against an unbroken one, byte by byte."""
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    commits = start_and_kill(broken, overrides, after_shards=after_shards)
    here = [*overrides, "synthesize.num_cpus=4"]  # two tasks at once in the session's cluster
    config = load_config(None, [*here, f"synthesize.out={broken}"])
    shards = shards_of(config)
    assert after_shards <= commits < len(shards)
    assert not (broken / "manifest.json").exists()
    merge_lists(RunStorage(str(broken)), shards, layout="echonet")
    with open(broken / "FileList.csv", newline="") as text:
        listed = [row["FileName"] for row in csv.DictReader(text)]
    assert len(listed) == len(set(listed)) < clips
    assert all((broken / "Videos" / f"{name}.avi").stat().st_size > 0 for name in listed)

    result = run_synthesis(config, quiet)
    assert (result["clips"], result["quarantined"]) == (clips, 0)
    assert result["made"] == clips - len(listed)
    result = run_synthesis(load_config(None, [*here, f"synthesize.out={unbroken}"]), quiet)
    assert (result["clips"], result["made"]) == (clips, clips)
    one, other = tree(broken), tree(unbroken)
    assert sorted(one) == sorted(other)
    assert [name for name in one if one[name] != other[name]] == []
    assert len([name for name in one if name.endswith(".avi")]) == clips
    assert check_folder(RunStorage(str(broken))) == clips
    assert {"preview.png", "preview.mp4", "manifest.json"} <= set(one)


@pytest.mark.slow  # a minute: three jobs
def test_a_killed_job_resumes_to_the_bytes_of_an_unbroken_one(tmp_path: Path) -> None:
    prove_resume(tmp_path, [*SMALL, "ray.num_cpus=1"], clips=24, after_shards=3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_clips_killed_and_resumed(tmp_path: Path) -> None:
    size = ["synthesize.clips=1000", "synthesize.frames=64", "synthesize.shard_clips=8"]
    prove_resume(tmp_path, [*SMALL, *size, "ray.num_cpus=2"], clips=1000, after_shards=20)


def test_a_finished_folder_stays_as_it_is_and_takes_no_other_request(tmp_path: Path) -> None:
    shape = ["synthesize.clips=3", "synthesize.shard_clips=2"]
    run_synthesis(request(tmp_path / "a", *shape), quiet)
    before = tree(tmp_path / "a")
    assert run_synthesis(request(tmp_path / "a", *shape), quiet)["made"] == 0
    assert tree(tmp_path / "a") == before
    with pytest.raises(ConfigError, match=r"synthesize.out: .*/a holds clips of another seed \(0, now 1\)"):
        run_synthesis(request(tmp_path / "a", *shape, "seed=1"), quiet)
    with pytest.raises(ConfigError, match=r"of another synthesize.frames \(16, now 20\)"):
        run_synthesis(request(tmp_path / "a", *shape, "synthesize.frames=20"), quiet)
    max((tmp_path / "a" / "Videos").iterdir()).write_bytes(b"damaged")
    assert run_synthesis(request(tmp_path / "a", *shape), quiet)["made"] == 1
    assert tree(tmp_path / "a") == before


class FormatReader:
    """An independent reader, after the description of EchoNet-Dynamic's folder.

    FileList.csv names videos without suffix, VolumeTracings.csv with it. The first traced line is the long axis, the
    others are chords; the outline goes down their first ends and back up the second ones, rounded to pixels. OpenCV
    decodes to BGR. A name with a dot is taken to have a suffix; a video with less than two traced frames is dropped.
    """

    def __init__(self, root: Path, split: str) -> None:
        with open(root / "FileList.csv", newline="") as text:
            self.rows = [row for row in csv.DictReader(text) if split in ("ALL", row["Split"].upper())]
        self.root = root
        self.names = [row["FileName"] + ".avi" for row in self.rows if os.path.splitext(row["FileName"])[1] == ""]
        assert not set(self.names) - set(os.listdir(root / "Videos"))
        self.traces: dict[str, dict[int, list[tuple[float, ...]]]] = {}
        with open(root / "VolumeTracings.csv") as text:
            assert text.readline().strip().split(",") == ["FileName", "X1", "Y1", "X2", "Y2", "Frame"]
            for line in text:
                name, *line_ends, frame = line.strip().split(",")
                frames = self.traces.setdefault(name, {})
                frames.setdefault(int(frame), []).append(tuple(map(float, line_ends)))
        self.names = [name for name in self.names if len(self.traces.get(name, ())) >= 2]

    def video(self, name: str) -> np.ndarray:
        capture = cv2.VideoCapture(str(self.root / "Videos" / name))
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        frames = [capture.read() for _ in range(count)]
        assert all(ok for ok, _ in frames)
        return np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for _, frame in frames])

    def mask(self, name: str, frame: int, shape: tuple[int, int]) -> np.ndarray:
        x1, y1, x2, y2 = np.array(self.traces[name][frame]).T
        x, y = np.concatenate([x1[1:], x2[:0:-1]]), np.concatenate([y1[1:], y2[:0:-1]])
        filled = np.zeros(shape, bool)
        filled[skimage.draw.polygon(np.rint(y), np.rint(x), shape)] = True
        return filled


def test_another_reader_gets_the_frames_and_the_traces(tmp_path: Path) -> None:
    shape = ["window.size=112", "synthesize.clips=12", "synthesize.frames=32", "synthesize.shard_clips=3"]
    config = request(tmp_path / "a", *shape, "synthesize.split_shares={TRAIN: 2, TEST: 1}", "synthesize.preview=0")
    run_synthesis(config, quiet)
    assert [len(FormatReader(tmp_path / "a", split).names) for split in ("TRAIN", "TEST", "VAL", "ALL")] == [
        8,
        4,
        0,
        12,
    ]
    reader = FormatReader(tmp_path / "a", "ALL")
    overlaps = []
    for index, (row, name) in enumerate(zip(reader.rows, reader.names, strict=True)):
        clip = synthesis_source(config).clip(index)
        assert name == f"{clip.clip_id}.avi"
        assert (float(row["EF"]), float(row["ESV"]), float(row["EDV"])) == (
            clip.conditions.ef_percent,
            clip.conditions.esv_ml,
            clip.conditions.edv_ml,
        )
        assert (int(row["FrameHeight"]), int(row["NumberOfFrames"]), float(row["FPS"])) == (112, 32, clip.fps)
        video = reader.video(name)
        ours = decode_video((tmp_path / "a" / "Videos" / name).read_bytes(), name=name).video
        assert video.shape == clip.video.shape
        # OpenCV converts to BGR and back to grey and rounds twice more: at most 2 levels, mostly none.
        assert np.abs(video.astype(int) - ours).max() <= 2
        assert np.abs(ours.astype(int) - clip.video).mean() < 2.5  # MJPEG's loss on speckle, of 255
        assert [len(lines) for lines in reader.traces[name].values()] == [21, 21]
        for frame in reader.traces[name]:
            truth = clip.truth_labels[frame] == 1
            found = reader.mask(name, frame, truth.shape)
            overlaps.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert len(overlaps) == 24
    assert min(overlaps) >= 0.95, sorted(overlaps)[:3]


def test_parquet_shards_hold_what_the_source_makes(tmp_path: Path) -> None:
    shape = ["synthesize.clips=7", "synthesize.shard_clips=3", "synthesize.first_index=1000"]
    config = request(tmp_path / "a", *shape, "synthesize.format=parquet")
    assert run_synthesis(config, quiet)["clips"] == 7
    paths = sorted((tmp_path / "a" / "clips").iterdir())
    assert [path.name for path in paths] == [f"shard-00000{number}.parquet" for number in range(3)]
    clips = [clip for path in paths for clip in read_shard(path.read_bytes())]
    assert [clip.index for clip in clips] == list(range(1000, 1007))
    for clip in clips:
        made = synthesis_source(config).clip(clip.index)
        assert (clip.clip_id, clip.conditions, clip.ed_frames) == (made.clip_id, made.conditions, made.ed_frames)
        assert np.array_equal(clip.video, made.video)
        assert np.array_equal(clip.truth_labels, made.truth_labels)
    assert check_folder(RunStorage(str(tmp_path / "a"))) == 7


def test_a_broken_recording_is_left_out_within_the_limit(tmp_path: Path) -> None:
    write_small_folder(str(tmp_path / "data"), videos=6)
    broken = tmp_path / "data" / "Videos" / "0XA1.avi"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    recorded = ["source.kind=recorded", f"source.path={tmp_path}/data", "synthesize.clips=6", "synthesize.preview=6"]
    result = run_synthesis(request(tmp_path / "a", *recorded, "data.quarantine_limit=0.2"), quiet)
    assert (result["clips"], result["quarantined"]) == (5, 1)
    assert "0XA1" not in (tmp_path / "a" / "FileList.csv").read_text()
    assert (tmp_path / "a" / "preview.mp4").stat().st_size > 0
    with pytest.raises(
        RunError, match=r"1 indices are quarantined, more than data.quarantine_limit \(0.1\) of 6.*0XA1"
    ):
        run_synthesis(request(tmp_path / "b", *recorded, "data.quarantine_limit=0.1"), quiet)
    assert not (tmp_path / "b" / "manifest.json").exists()
    with pytest.raises(RunError, match=r"1 indices are quarantined"):  # and so says the next call
        run_synthesis(request(tmp_path / "b", *recorded, "data.quarantine_limit=0.1"), quiet)


def test_what_cannot_work_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"synthesize.out: empty, name the folder"):
        run_synthesis(load_config(None, ["students.a.blocks=1"]), quiet)
    with pytest.raises(InputError, match="cannot be written"):
        run_synthesis(request(Path("/proc/nowhere")), quiet)
    with pytest.raises(InputError, match="/no/such"):
        run_synthesis(request(tmp_path / "a", "source.kind=recorded", "source.path=/no/such"), quiet)
    with pytest.raises(RunError, match=r"synthesize.num_cpus: got 99, the largest node of the cluster has 8 CPU"):
        run_synthesis(request(tmp_path / "a", "synthesize.num_cpus=99"), quiet)


def test_a_cluster_taken_by_others_ends_with_a_sentence(tmp_path: Path) -> None:
    others = ray.remote(num_cpus=8)(lambda: time.sleep(60)).remote()
    while ray.available_resources().get("CPU"):
        time.sleep(0.05)
    with pytest.raises(RunError, match=r"no shard was finished for 0.1 s \(data.no_progress_timeout_s\): is the"):
        run_synthesis(request(tmp_path / "a", "data.no_progress_timeout_s=0.1"), quiet)
    ray.cancel(others, force=True)
    assert not (tmp_path / "a" / "shards").exists()


def test_the_job_prints_its_config_and_refuses_in_one_line() -> None:
    def job(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, f"jobs/{name}.py", "--config", "configs/synthesize.yaml", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    done = job("synthesize", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "shard_clips: 16" in done.stdout
    done = job("distill")
    assert done.returncode == 2
    assert done.stderr.startswith("error: students: empty, name at least one")
    assert len(done.stderr.strip().splitlines()) == 1
