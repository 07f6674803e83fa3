"""A server that speaks S3 (moto) on this machine, and a proxy before it that breaks requests on demand."""

import contextlib
import http.client
import http.server
import itertools
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import s3fs
from werkzeug.serving import WSGIRequestHandler, make_server

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "NO_PROXY": "127.0.0.1",
}

Fault = Callable[[int, str, str], str]
"""What befalls a request, by its number from 0, method and path: "" (nothing), "slow_down" (503, not done), "reset"
(connection cut, not done), "lost" (done, the answer cut off), "conflict" (409, not done), "bare_412" (done; a refusal
does not name its condition), or "delay 0.5" (seconds before it is done)."""


class _QuietHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


class S3Server:
    """moto's S3 on a free port. Requests are answered one at a time: as in S3, no two of them interleave."""

    _names = itertools.count()  # of all servers: moto keeps one set of buckets for a process

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        application = DomainDispatcherApplication(create_backend_app)
        lock = threading.Lock()

        def one_at_a_time(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            with lock:
                return list(application(environ, start_response))

        self._server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True, request_handler=_QuietHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.port = self._server.server_port

    def bucket(self) -> str:
        """A new bucket's name."""
        name = f"bucket-{next(self._names)}"
        fs = s3fs.S3FileSystem(
            key="test", secret="test", endpoint_url=f"http://127.0.0.1:{self.port}", skip_instance_cache=True
        )
        fs.mkdir(name)
        return name

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()


class FaultyProxy:
    """Passes requests on to an `S3Server`, but breaks some. ``seen`` lists (method, path, fault)."""

    def __init__(self, port: int, fault: Fault = lambda number, method, path: "") -> None:
        self.fault = fault
        self.seen: list[tuple[str, str, str]] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy._choose(self.command, self.path)
                if fault.startswith("delay"):
                    time.sleep(float(fault.split()[1]))
                if fault == "slow_down":
                    return self._answer(503, _error("SlowDown", "Please reduce your request rate."))
                if fault == "conflict":
                    return self._answer(409, _error("ConditionalRequestConflict", "Another one is under way."))
                if fault == "reset":
                    return self._cut()
                upstream = http.client.HTTPConnection("127.0.0.1", port)
                headers = {key: value for key, value in self.headers.items() if key.lower() != "expect"}
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                content = answer.read()
                upstream.close()
                if fault == "lost":
                    return self._cut()
                if fault == "bare_412" and answer.status == 412:
                    return self._answer(412, _error("PreconditionFailed", "A precondition does not hold."))
                return self._answer(answer.status, content, answer.getheaders())

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_any  # noqa: N815

            def _answer(self, status: int, content: bytes, headers: list[tuple[str, str]] | None = None) -> None:
                self.send_response_only(status)
                for key, value in headers or []:
                    if key.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(key, value)
                length = dict(headers or []).get("Content-Length") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def _cut(self) -> None:
                """End the connection with a reset instead of an orderly end."""
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()

            def finish(self) -> None:
                with contextlib.suppress(OSError):
                    super().finish()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients that time out cut their connections

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _choose(self, method: str, path: str) -> str:
        with self._lock:
            fault = self.fault(len(self.seen), method, path)
            self.seen.append((method, path, fault))
        return fault

    def count(self, fault: str) -> int:
        """Requests that met this fault."""
        return sum(found == fault for _, _, found in self.seen)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def environment(port: int) -> dict[str, str]:
    """Variables that lead every S3 client of a process to this port."""
    return {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


@contextlib.contextmanager
def forgetting_clients() -> Iterator[None]:
    """s3fs keeps clients, and with them the endpoint that they first saw."""
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        yield
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def _error(code: str, message: str) -> bytes:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>0</RequestId></Error>"
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + text.encode()
