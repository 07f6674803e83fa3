"""A teacher's service behind Ray Serve: the server of `teacher.kind: remote` (docs/how-to/remote-teacher.md).

     clients --HTTP(S)--> Serve's proxy --> replicas: MaskService (who may ask, for how much) --> the teacher
                          (head node)       (teacher.min_actors .. max_actors)

A replica checks a request's head before it reads the body, and holds at most `serve.queue` requests: its memory is at
most queue x `Limits.held_bytes`, and that of the teacher itself. A request counts until nothing of it is held, also if
its client has hung up. The replica works on all of them in turn (`FairQueue`). Serve's own bounds are larger: a request
that is refused needs a place too.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import socket
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch

from echodfkd.config.rules.jobs import needs_port
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.remote import TOKEN_VARIABLE, ServeConfig, is_loopback
from echodfkd.core import clock
from echodfkd.core.errors import InputError, RunError, one_line
from echodfkd.runtime.cluster.connection import connected, last_sentence, node_labels, with_absolute_paths
from echodfkd.runtime.cluster.environment import cluster_address
from echodfkd.runtime.cluster.resources import Role, live_nodes, place
from echodfkd.runtime.stream.builders import load_teacher
from echodfkd.runtime.stream.teacher_pool import known_teacher
from echodfkd.teaching.remote.fair_queue import FairQueue
from echodfkd.teaching.remote.messages import Limits
from echodfkd.teaching.remote.service import Answer, MaskService, busy, cut_off, read_token, too_slow

APPLICATION = "echodfkd-teacher"
HELD_AT_ONCE = 256
"""Requests that Serve gives to a replica at the same time, most of them to be refused; as many more wait outside."""


class TeacherReplica:
    """One teacher and its queue, as Ray Serve runs it.

    Args:
        config: of the service.
        teacher_id: of the teacher that the driver loaded; another id here means other weights on this node.
    """

    def __init__(self, config: RunConfig, teacher_id: str) -> None:
        if not config.teacher.num_gpus:
            torch.set_num_threads(max(1, round(config.teacher.num_cpus)))
        teacher = known_teacher(config, teacher_id)
        self._service = MaskService(teacher, _limits(config.serve), _token(config.serve))
        self._options = config.serve
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._queue: FairQueue[Answer] = FairQueue()

    async def __call__(self, request: Any) -> Any:
        """Answer one HTTP request (starlette's, in and out)."""
        from starlette.responses import Response

        client = request.client.host if request.client else ""
        heads = dict(request.headers)
        answer = await self._answer(request.method, request.url.path, heads, request.stream(), client)
        return Response(answer.body, answer.status, answer.headers)

    async def _answer(
        self, method: str, path: str, headers: dict[str, str], body: AsyncIterator[bytes], client: str = ""
    ) -> Answer:
        found = self._service.admit(method, path, headers)
        if isinstance(found, Answer):
            return found
        if not self._hold(client):
            return busy()
        try:
            data = await asyncio.wait_for(_read(body, found), self._options.body_timeout_s)
        except BaseException as error:
            self._let_go(client)
            if isinstance(error, TimeoutError):
                return too_slow()
            raise
        if len(data) != found:
            self._let_go(client)
            return cut_off()
        steps = self._service.steps(data)
        del data  # the steps hold it until it is decompressed
        work = self._queue.submit(steps, functools.partial(self._let_go, client))
        del steps
        return await asyncio.wrap_future(work)  # cancelled if the client hangs up

    def _hold(self, client: str) -> bool:
        """Take a place for a request of this address. The last quarter of them is for those that have none here."""
        queue = self._options.queue
        with self._lock:
            if self._held.total() >= (queue - queue // 4 if self._held[client] else queue):
                return False
            self._held[client] += 1
            return True

    def _let_go(self, client: str) -> None:
        with self._lock:
            self._held[client] -= 1
            self._held += Counter()  # forgets who holds nothing


def run_teacher_service(config: RunConfig, print_line: Callable[[str], None]) -> dict[str, Any]:
    """Serve the config's teacher until SIGTERM or Ctrl-C.

    Raises:
        EchoDFKDError: one sentence; nothing listens then.
    """
    needs_port(config)
    config = with_absolute_paths(config)
    started = clock.now()
    _check_entrance(config.serve)
    if cluster_address(config.ray.address) == "local":
        _check_port(config.serve)
    teacher = load_teacher(config, device="cpu")
    with connected(config.ray), _told_to_stop() as told:
        try:
            _start(config, teacher.teacher_id)
            url = _url(config.serve)
            print_line(f"serving {teacher.teacher_id} ({', '.join(teacher.class_names[1:])}) at {url}")
            told.wait()
        finally:
            _stop()
    return {"ok": True, "teacher": teacher.teacher_id, "url": url, "served_s": round(clock.now() - started, 1)}


def _check_entrance(serve: ServeConfig) -> None:
    """Refuse a public address without a token, and certificate files that Serve could not use. Raises `InputError`."""
    if not _token(serve) and not is_loopback(serve.host):
        raise InputError(
            f"serve.host: {serve.host} is reached from other machines, and there is no token; name a file with one in"
            f" serve.token_file, or set {TOKEN_VARIABLE}"
        )
    if serve.certificate_file:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(serve.certificate_file, serve.key_file)
        except OSError as error:  # ssl.SSLError too
            raise InputError(
                f"serve.certificate_file, serve.key_file: {serve.certificate_file} and {serve.key_file} cannot be used:"
                f" {one_line(error)}"
            ) from error


def _check_port(serve: ServeConfig) -> None:
    """Refuse a port that is taken: Serve shares ports, and half of the requests would go to the other server."""
    family = socket.AF_INET6 if ":" in serve.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier service may linger
        try:
            probe.bind((serve.host, serve.port))
        except OSError as error:
            raise RunError(f"serve.port: {serve.host}:{serve.port} cannot be listened on: {error.strerror}") from error


def _check_room(config: RunConfig) -> None:
    """Refuse a cluster that cannot hold the replicas: Serve would wait for ever."""
    teacher = config.teacher
    labels = node_labels(teacher.node_label) or {}
    role = Role("replica", teacher.min_actors, teacher.num_cpus, teacher.num_gpus, labels, "teacher")
    if missing := place([role], live_nodes()):
        raise RunError(f"the cluster cannot hold this service: {missing[0]}")


def _start(config: RunConfig, teacher_id: str) -> None:
    """Start the application. Raises `RunError` with the reason if it does not start."""
    try:
        from ray import serve
        from ray.serve.config import HTTPOptions
        from ray.serve.schema import LoggingConfig
    except ImportError as error:
        raise InputError("echodfkd serve-teacher needs Ray Serve: pip install 'echodfkd[serve]'") from error
    if serve.status().applications or serve.status().proxies:
        raise RunError(
            "serve.port: Ray Serve runs on this cluster already, with a port and a certificate of its own; end it with"
            " `serve shutdown`, or serve on another cluster"
        )
    _check_room(config)
    options, teacher = config.serve, config.teacher
    for name in ("ray.serve", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    many = {"min_replicas": teacher.min_actors, "max_replicas": teacher.max_actors, "target_ongoing_requests": 2}
    actor = {"num_cpus": teacher.num_cpus, "num_gpus": teacher.num_gpus}
    if labels := node_labels(teacher.node_label):
        actor["label_selector"] = labels  # type: ignore[assignment]
    deployment = serve.deployment(
        name=APPLICATION,
        autoscaling_config=many,
        ray_actor_options=actor,
        max_ongoing_requests=HELD_AT_ONCE,
        max_queued_requests=HELD_AT_ONCE,
        graceful_shutdown_timeout_s=10,
    )(TeacherReplica)
    quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options=HTTPOptions(
                host=options.host,
                port=options.port,
                ssl_certfile=options.certificate_file or None,
                ssl_keyfile=options.key_file or None,
            ),
            logging_config=quiet,
        )
        serve.run(deployment.bind(config, teacher_id), name=APPLICATION, route_prefix="/", logging_config=quiet)
    except (RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise RunError(f"serve: the service did not start: {last_sentence(error)}") from error


def _stop() -> None:
    """End Serve, if it was started."""
    try:
        from ray import serve
    except ImportError:
        return
    serve.shutdown()


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set; entered after ray.init, which installs its own handler."""
    told = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda *_: told.set())
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _read(body: AsyncIterator[bytes], length: int) -> bytes:
    """The body; reading stops once it is longer than announced."""
    pieces, size = [], 0
    async for piece in body:
        pieces.append(piece)
        size += len(piece)
        if size > length:
            break
    return b"".join(pieces)


def _limits(serve: ServeConfig) -> Limits:
    return Limits(max_body_bytes=serve.max_body_mb << 20, max_frames=serve.max_frames, max_side=serve.max_side)


def _token(serve: ServeConfig) -> str:
    return read_token(serve.token_file, "serve.token_file")


def _url(serve: ServeConfig) -> str:
    host = f"[{serve.host}]" if ":" in serve.host else serve.host
    return f"{'https' if serve.certificate_file else 'http'}://{host}:{serve.port}"
