"""One page that runs a streaming student in a browser: everything inside of one file, nothing asked of a network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from importlib import resources
from typing import Any

from echodfkd.core.errors import InputError, RunError, one_line
from echodfkd.inference.export.checks import check_file, multiple_of
from echodfkd.inference.export.folder import check_source
from echodfkd.inference.export.graphs import stream_onnx
from echodfkd.inference.flags import LIMITS
from echodfkd.inference.student import LoadedStudent
from echodfkd.models.students.streaming import StreamingStudent
from echodfkd.storage.files import RunStorage

PAGE = "index.html"
RUNTIME_URL = "https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz"
RUNTIME_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
"""onnxruntime-web as npm has it: MIT, https://github.com/microsoft/onnxruntime."""
_BUNDLE, _WASM = "package/dist/ort.wasm.bundle.min.mjs", "package/dist/ort-wasm-simd-threaded.wasm"
_MAX_BYTES, _MAX_MEMBER = 1 << 26, 1 << 25
_TIMEOUT_S = 60.0


def fetch_runtime() -> bytes:
    """The archive of onnxruntime-web. Raises `RunError` if the registry cannot be reached or gives other bytes."""
    import urllib3

    try:
        with urllib3.PoolManager(timeout=_TIMEOUT_S, retries=2) as pool:
            answer = pool.request("GET", RUNTIME_URL, preload_content=False)
            data = answer.read(_MAX_BYTES)
            answer.release_conn()
    except urllib3.exceptions.HTTPError as error:
        raise RunError(f"--web: {RUNTIME_URL} cannot be fetched: {one_line(error)}") from error
    return checked_runtime(data)


def checked_runtime(data: bytes) -> bytes:
    """``data`` if it is the pinned archive. Raises `RunError`."""
    found = hashlib.sha256(data).hexdigest()
    if found != RUNTIME_SHA256:
        raise RunError(f"--web: {RUNTIME_URL} has the sha256 {found[:16]}..., expected {RUNTIME_SHA256[:16]}...")
    return data


def export_page(student: LoadedStudent, out: str, *, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Write ``index.html``: a page that runs the student in a browser, on videos and on the camera.

    Args:
        student: of `load_student`.
        out: folder that is written to.
        say: takes a line about the page.

    Returns:
        ``{"page": path, "bytes": size}``.

    Raises:
        InputError: the student is bidirectional, or a package is missing.
        RunError: onnxruntime-web cannot be fetched, or the stream differs from the trained student.
    """
    check_source(student)
    if not student.is_causal:
        raise InputError(
            "--web: this student is bidirectional, its first mask needs the last frame; a page needs a stream"
        )
    storage = RunStorage(out)
    storage.check_writable("--web")
    runtime = fetch_runtime()
    stream = stream_onnx(student.network, multiple_of(student), {})
    check_file(student, PAGE, "stream", stream)
    page = build_page(student, stream, runtime)
    storage.write(PAGE, page)
    say(f"{PAGE}: {len(page):,} bytes, with onnxruntime-web inside")
    return {"page": f"{storage.root}/{PAGE}", "bytes": len(page)}


def build_page(student: LoadedStudent, stream: bytes, runtime: bytes) -> bytes:
    """index.html: the page, the student and onnxruntime-web in one file, for a server or ``file://``.

    Args:
        student: causal, with LV among its classes.
        stream: ONNX of `echodfkd.inference.export.graphs.stream_onnx`.
        runtime: of `fetch_runtime`.
    """
    own = resources.files("echodfkd.inference.export.web")
    parts: dict[str, str] = {
        "STYLE": own.joinpath("page.css").read_text("utf-8"),
        "STUDENT": json.dumps(_facts(student)).replace("<", "\\u003c"),
        "RUNTIME": _packed(_member(runtime, _BUNDLE)),
        "WASM": _packed(_member(runtime, _WASM)),
        "MODEL": _packed(stream),
        "SCRIPT": own.joinpath("page.js").read_text("utf-8"),
    }
    page = own.joinpath("page.html").read_text("utf-8")
    for name, text in parts.items():
        page = page.replace(f"/*{name}*/", text, 1)
    return page.encode()


def _facts(student: LoadedStudent) -> dict[str, Any]:
    """What the page must know of the student; a state is (channels, how many times coarser than the frame)."""
    first = StreamingStudent(student.network).first_state(1, student.size, student.size)
    states = [(tensor.shape[1], student.size // tensor.shape[-1]) for tensor in first]
    return {"size": student.size, "fps": student.fps, "classes": student.classes, "states": states, "limits": LIMITS}


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        try:
            member = tar.getmember(name)
        except KeyError as error:
            raise InputError(f"--web: the archive of onnxruntime-web has no {name}") from error
        file = tar.extractfile(member)
        if file is None or member.size > _MAX_MEMBER:
            raise InputError(
                f"--web: {name} in the archive of onnxruntime-web is no file of at most {_MAX_MEMBER} bytes"
            )
        return file.read()
