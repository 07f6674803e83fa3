"""A service of masks in this process, on the product's own `MaskService`, that breaks requests on demand."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import json
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from echodfkd.teaching.remote.messages import Limits, decode_masks, encode_masks
from echodfkd.teaching.remote.service import MASKS_PATH, Answer, MaskService
from tests.helpers.teachers import FloatTeacher

TOKEN = "0123456789abcdef-a-token-of-tests"
LIMITS = Limits(max_body_bytes=1 << 20, max_frames=64, max_side=64)

Fault = Callable[[int], str]
"""What befalls a request for masks, by its number from 0: "" (nothing), "500", "503" (not done), "reset" (cut, not
done), "lost" (done, then cut), "truncated", "damaged" (a byte of the masks), "misshapen", "other teacher", "huge" (a
length of a petabyte), "endless" (more bytes than any mask has), "drip" (a byte now and then), "text" (no message), or
"delay 0.5" (seconds)."""


class FakeTeacher(FloatTeacher):
    """Probability = grey level / 255, so that its quantised masks are the video; NaN where a clip begins with 255."""

    def __init__(self, teacher_id: str = "fake-1", num_classes: int = 1, delay_s: float = 0.0) -> None:
        self.teacher_id, self.delay_s = teacher_id, delay_s
        self.class_names = ("background", "LV", "LA", "RV")[: num_classes + 1]

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        time.sleep(self.delay_s)
        prob = video_NTHW.astype(np.float32) / 255
        prob[video_NTHW[:, 0, 0, 0] == 255] = np.nan
        count = len(self.class_names) - 1
        return prob if count == 1 else np.stack([prob / (place + 1) for place in range(count)], axis=2)


class FakeServer:
    """`MaskService` behind http.server, a thread per connection.

    Attributes:
        faults: how many requests met each fault.
        done: sha256 of each request's body -> how often its masks were made.
        at_once: most requests for masks that were under way at the same time.
    """

    def __init__(
        self,
        teacher: Any = None,
        *,
        fault: Fault = lambda number: "",
        limits: Limits = LIMITS,
        token: str = TOKEN,
        port: int = 0,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self.service = MaskService(teacher or FakeTeacher(), limits, token)
        self.fault = fault
        self.faults: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.at_once = self._now = self._number = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and cut every connection."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._server.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def choose(self) -> str:
        with self._lock:
            fault = self.fault(self._number)
            self._number += 1
            self.faults[fault] += 1
        return fault

    def teach(self, body: bytes) -> Answer:
        with self._lock:
            self._now += 1
            self.at_once = max(self.at_once, self._now)
            self.done[hashlib.sha256(body).hexdigest()] += 1
        try:
            return self.service.teach(body)
        finally:
            with self._lock:
                self._now -= 1


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that give up cut their connections


def _handler(server: FakeServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_any(self) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            found = server.service.admit(self.command, self.path, headers)
            if isinstance(found, Answer):
                self.close_connection = self.command == "POST"  # its body was not read
                return self.answer(found)
            body = self.rfile.read(found)
            fault = server.choose() if self.path == MASKS_PATH else ""
            if fault in ("500", "503"):
                return self.answer(Answer(int(fault), b"<html>Sorry</html>", {"Retry-After": "0"}))
            if fault == "reset":
                return self.cut()
            if fault.startswith("delay"):
                time.sleep(float(fault.split()[1]))
            answer = server.teach(body)
            if fault == "lost":
                return self.cut()
            return self.answer(_spoiled(answer, fault), fault)

        do_GET = do_POST = do_PUT = do_any  # noqa: N815

        def answer(self, answer: Answer, fault: str = "") -> None:
            self.send_response_only(answer.status)
            for key, value in answer.headers.items():
                self.send_header(key, value)
            length = {"huge": 10**15, "endless": None}.get(fault, len(answer.body))
            if length is None:
                self.close_connection = True
            else:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            if fault == "truncated":
                self.wfile.write(answer.body[: len(answer.body) // 2])
                return self.cut()
            if fault == "endless":
                with contextlib.suppress(OSError):
                    for _ in range(1 << 12):
                        self.wfile.write(bytes(1 << 16))
            elif fault == "drip":
                for place in range(len(answer.body)):
                    self.wfile.write(answer.body[place : place + 1])
                    time.sleep(0.05)
            else:
                self.wfile.write(answer.body)

        def cut(self) -> None:
            """End the connection with a reset instead of an orderly end."""
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        def finish(self) -> None:
            with contextlib.suppress(OSError):
                super().finish()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _spoiled(answer: Answer, fault: str) -> Answer:
    """The answer with one fault in its body."""
    if fault == "damaged":
        return dataclasses.replace(answer, body=answer.body[:-3] + bytes([answer.body[-3] ^ 1]) + answer.body[-2:])
    if fault == "text":
        return dataclasses.replace(answer, body=b"<html>It works</html>")
    if fault in ("misshapen", "other teacher"):
        size = int.from_bytes(answer.body[4:8], "little")
        N, T, *C, H, W = json.loads(answer.body[8 : 8 + size])["shape"]
        shape = (N, T, *(C or [1]), H, W)
        taught = decode_masks(answer.body, shape, "own")
        if fault == "misshapen":
            taught = dataclasses.replace(taught, masks=taught.masks[..., 1:])
        else:
            taught = dataclasses.replace(taught, teacher_id="another-2")
        return dataclasses.replace(answer, body=encode_masks(taught))
    return answer


def make_certificate(folder: Path) -> tuple[Path, Path] | None:
    """A self-signed certificate of 127.0.0.1 and its key as PEM files; None where there is no openssl."""
    if shutil.which("openssl") is None:
        return None
    certificate, key = folder / "service.pem", folder / "service.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
