"""`echodfkd predict` on a video that is too large, and on an object store with actors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import s3fs

from echodfkd.sources.video.encode import encode_avi
from echodfkd.teaching.mask_files import decode_npz
from tests.helpers.s3 import CREDENTIALS, S3Server
from tests.helpers.video import encode
from tests.unit.runtime.test_prediction_run import VIDEO, student

__all__ = ["student"]


@pytest.mark.slow
def test_a_video_of_3000_large_frames_is_refused_before_it_fills_the_memory(student: str, tmp_path: Path) -> None:
    """1024 x 768 x 3,000 are 2.4 GB of grey levels: the bound is 512 MiB, and the process may need twice as much."""
    path = tmp_path / "large.avi"
    path.write_bytes(encode(np.zeros((3000, 768, 1024), np.uint8), "mjpeg", "yuvj420p"))
    peaks = {}
    for name in ("text.avi", "large.avi"):
        (tmp_path / "text.avi").write_text("hello")
        code = (
            "import resource, sys; from jobs.predict import main; main(sys.argv[1:])\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        out = tmp_path / name[:4]
        arguments = [str(tmp_path / name), "--student", student, "--out", str(out)]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        peaks[name] = int(done.stdout.splitlines()[-1]) / 1024
    print(f"peak memory: {peaks} MiB")
    result = json.loads((tmp_path / "larg" / "large" / "result.json").read_text())
    assert "too large" in result["error"]
    assert peaks["large.avi"] - peaks["text.avi"] < 1100


@pytest.mark.slow
def test_videos_of_an_object_store_are_segmented_by_actors(student: str, tmp_path: Path) -> None:
    """In a process of its own, which starts a cluster of two actors; results go to the store as well."""
    server = S3Server()
    try:
        bucket = server.bucket()
        env = {**os.environ, **CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"}
        fs = s3fs.S3FileSystem(key="test", secret="test", endpoint_url=env["AWS_ENDPOINT_URL"])
        for name in ("a", "b", "c"):
            fs.pipe_file(f"{bucket}/videos/{name}.avi", encode_avi(VIDEO, 50))
        fs.pipe_file(f"{bucket}/videos/d.avi", b"hello")
        out = f"s3://{bucket}/out"
        command = [sys.executable, "jobs/predict.py", f"s3://{bucket}/videos", "--student", student, "--out", out]
        done = subprocess.run([*command, "--actors", "2"], capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stderr[-2000:]
        summary = json.loads(done.stdout.strip().splitlines()[-1])
        assert (summary["videos"], summary["failed"]) == (4, 1)
        codes = [decode_npz(fs.cat_file(f"{bucket}/out/{name}/{name}.seg.npz"), name) for name in ("a", "b", "c")]
        assert codes[0].shape == VIDEO.shape
        assert all(np.array_equal(one, codes[0]) for one in codes)
        assert b"is not a readable video" in fs.cat_file(f"{bucket}/out/index.html")
    finally:
        server.close()
