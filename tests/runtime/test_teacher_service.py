"""The replica's queue, without Serve around it; and what keeps a service from starting. No cluster is started."""

import asyncio
import json
import socket
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echodfkd.config.file import load_config
from echodfkd.core.errors import ConfigError, InputError, RunError
from echodfkd.core.mask_codes import quantise
from echodfkd.runtime.stream.builders import load_teacher
from echodfkd.runtime.teacher_service import TeacherReplica, run_teacher_service
from echodfkd.teaching.remote.messages import decode_masks, encode_video
from echodfkd.teaching.remote.service import Answer
from tests.helpers.remote import TOKEN, FakeTeacher
from tests.helpers.teachers import lv_prob

SERVE = ["serve.port=1", "serve.queue=2", "serve.body_timeout_s=0.2"]
VIDEO = np.random.default_rng(0).integers(0, 255, (2, 4, 32, 32), dtype=np.uint8)
BODY = encode_video(VIDEO)
HEADERS = {"authorization": f"Bearer {TOKEN}", "content-length": str(len(BODY))}


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> TeacherReplica:
    monkeypatch.setenv("ECHODFKD_TEACHER_TOKEN", TOKEN)
    config = load_config(None, SERVE)
    made = TeacherReplica(config, load_teacher(config).teacher_id)
    made._service.teacher = FakeTeacher(delay_s=0.2)
    return made


async def pieces(body: bytes, *, stall: bool = False) -> AsyncIterator[bytes]:
    yield body[:10]
    if stall:
        await asyncio.sleep(60)
    yield body[10:]


def post(replica: TeacherReplica, body: AsyncIterator[bytes], **headers: str) -> Coroutine[Any, Any, Answer]:
    return replica._answer("POST", "/v1/masks", {**HEADERS, **headers}, body)


def test_a_full_queue_sends_away_before_a_body_is_read_and_is_free_again_after(replica: TeacherReplica) -> None:
    async def crowd() -> list[Answer]:
        read: list[int] = []

        async def counted(number: int) -> AsyncIterator[bytes]:
            read.append(number)
            yield BODY

        first = await asyncio.gather(*(post(replica, counted(number)) for number in range(5)))
        assert len(read) == 2
        return [*first, await post(replica, pieces(BODY))]

    answers = asyncio.run(crowd())
    assert [answer.status for answer in answers] == [200, 200, 503, 503, 503, 200]
    assert {answer.headers.get("Retry-After") for answer in answers if answer.status == 503} == {"1"}
    for answer in answers:
        if answer.status == 200:
            np.testing.assert_array_equal(
                decode_masks(answer.body, VIDEO[:, :, None].shape, "it").masks[:, :, 0], VIDEO
            )


def test_a_body_that_stalls_or_lies_about_its_length_gives_its_place_back(replica: TeacherReplica) -> None:
    async def in_turn() -> list[Answer]:
        return [
            await post(replica, pieces(BODY, stall=True)),
            await post(replica, pieces(BODY[:-1])),
            await post(replica, pieces(BODY + b"x")),
            await post(replica, pieces(BODY), authorization="Bearer no"),
            await post(replica, pieces(BODY)),
        ]

    answers = asyncio.run(in_turn())
    assert [answer.status for answer in answers] == [408, 400, 400, 401, 200]
    assert all("error" in json.loads(answer.body) for answer in answers[:-1])
    assert not replica._held


class Gate(FakeTeacher):
    """Waits in each part of its work until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened, self.asked = threading.Event(), 0

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        self.asked += 1
        assert self.opened.wait(20)
        return super().prob(video_NTHW)


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never held")


def test_a_request_whose_client_hangs_up_counts_until_nothing_of_it_is_held(replica: TeacherReplica) -> None:
    """Twenty clients send a large body and hang up at once, while the teacher is at work on the first."""
    gate = replica._service.teacher = Gate()
    noise = np.random.default_rng(1).integers(0, 255, (1, 64, 128, 128), dtype=np.uint8)
    body = encode_video(noise)
    head = {"content-length": str(len(body))}
    limit = replica._options.queue * 2 * len(body)  # body and frames of two; no mask is made

    async def whole() -> AsyncIterator[bytes]:
        yield bytes(bytearray(body))  # bytes of its own, as those of a socket are

    async def crowd() -> list[int]:
        refused = []
        for _ in range(20):
            task = asyncio.ensure_future(post(replica, whole(), **head))
            await until(lambda task=task: task.done() or (gate.asked > 0 and replica._held.total() > 0))  # type: ignore[misc]
            await asyncio.sleep(0.01)
            assert replica._held.total() <= 2
            if task.done():
                refused.append(task.result().status)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert replica._held.total() == 1  # the first one, which the teacher is at work on
        assert tracemalloc.get_traced_memory()[1] < limit + (1 << 20)
        gate.opened.set()
        await until(lambda: not replica._held)
        return [*refused, (await post(replica, pieces(BODY))).status]

    tracemalloc.start()
    try:
        assert asyncio.run(crowd()) == [200]
    finally:
        tracemalloc.stop()
    assert gate.asked == 2, "a request that was cancelled before its turn is not worked on"


def test_a_long_request_does_not_keep_the_others_waiting(
    replica: TeacherReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echodfkd.teaching.remote.service.STEP_PIXELS", 32 * 32 * 4)
    replica._service.teacher = FakeTeacher(delay_s=0.02)
    video = np.zeros((60, 4, 32, 32), np.uint8)  # sixty parts
    long = encode_video(video)
    assert len(long) < 1000
    ends: list[str] = []

    async def ask(name: str, body: bytes) -> Answer:
        answer = await post(replica, pieces(body), **{"content-length": str(len(body))})
        ends.append(name)
        return answer

    async def both() -> list[Answer]:
        first = asyncio.ensure_future(ask("long", long))
        await until(lambda: replica._held.total() == 1)
        return [await ask("short", BODY), await first]

    answers = asyncio.run(both())
    assert [answer.status for answer in answers] == [200, 200]
    assert ends == ["short", "long"]
    assert not decode_masks(answers[1].body, (60, 4, 1, 32, 32), "it").masks.any()


def test_a_cancelled_request_is_not_worked_on_any_further(
    replica: TeacherReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echodfkd.teaching.remote.service.STEP_PIXELS", 32 * 32 * 4)
    gate = replica._service.teacher = Gate()
    body = encode_video(np.zeros((60, 4, 32, 32), np.uint8))

    async def hang_up() -> None:
        task = asyncio.ensure_future(post(replica, pieces(body), **{"content-length": str(len(body))}))
        await until(lambda: gate.asked == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gate.opened.set()
        await until(lambda: not replica._held)

    asyncio.run(hang_up())
    assert gate.asked == 1


def test_the_last_places_are_for_addresses_that_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHODFKD_TEACHER_TOKEN", TOKEN)
    config = load_config(None, ["serve.port=1", "serve.queue=8"])
    replica = TeacherReplica(config, load_teacher(config).teacher_id)
    gate = replica._service.teacher = Gate()

    async def crowd() -> list[int]:
        def ask(client: str) -> asyncio.Future[Answer]:
            return asyncio.ensure_future(replica._answer("POST", "/v1/masks", HEADERS, pieces(BODY), client))

        greedy = [ask("10.0.0.1") for _ in range(9)]
        await until(lambda: sum(task.done() for task in greedy) == 3)
        others = [ask(client) for client in ("10.0.0.2", "10.0.0.2", "10.0.0.3", "10.0.0.4")]
        await until(lambda: sum(task.done() for task in others) == 2)
        gate.opened.set()
        return [answer.status for answer in await asyncio.gather(*greedy, *others)]

    statuses = asyncio.run(crowd())
    assert statuses == [200] * 6 + [503] * 3 + [200, 503, 200, 503]
    assert not replica._held


def test_a_small_body_that_is_large_is_refused_before_it_is_decompressed(replica: TeacherReplica) -> None:
    body = encode_video(np.zeros((64, 16, 1024, 1024), np.uint8))
    assert len(body) < 100_000
    tracemalloc.start()
    try:
        answer = asyncio.run(post(replica, pieces(body), **{"content-length": str(len(body))}))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert answer.status == 413
    assert "1024 frames of 1024 x 1024 pixels, this service takes up to" in json.loads(answer.body)["error"]
    assert "67108864 bytes decompressed" in json.loads(answer.body)["error"]


def test_frames_that_the_teacher_cannot_take_are_the_clients_fault(replica: TeacherReplica) -> None:
    replica._service.teacher = load_teacher(load_config(None, SERVE))
    body = encode_video(VIDEO[..., :1, :])
    answer = asyncio.run(post(replica, pieces(body), **{"content-length": str(len(body))}))
    assert answer.status == 422
    assert json.loads(answer.body)["error"].startswith("window.size: the embedded teacher needs H and W divisible by")


def test_the_shipped_teacher_gives_through_a_replica_what_it_gives_at_home(replica: TeacherReplica) -> None:
    config = load_config(None, SERVE)
    teacher = load_teacher(config)
    replica._service.teacher = teacher
    answer = asyncio.run(post(replica, pieces(BODY)))
    taught = decode_masks(answer.body, VIDEO[:, :, None].shape, "it")
    assert taught.teacher_id == teacher.teacher_id
    np.testing.assert_array_equal(taught.masks[:, :, 0], quantise(lv_prob(teacher, VIDEO)))
    with pytest.raises(RunError, match=r"this node loads embedded-\w+, the driver loaded another-1"):
        TeacherReplica(config, "another-1")


@pytest.mark.parametrize(
    ("overrides", "kind", "words"),
    [
        (["students.a.blocks=1"], ConfigError, "serve.port: 0, name the port to listen on"),
        (["serve.port=1", "serve.host=0.0.0.0"], InputError, "serve.host: 0.0.0.0 is reached from other machines, and"),
        (["serve.port=1", "serve.token_file=/no/such"], InputError, "/no/such) cannot be read"),
        (
            ["serve.port=1", "serve.certificate_file=README.md", "serve.key_file=README.md"],
            InputError,
            "README.md cannot be used:",
        ),
    ],
)
def test_what_keeps_a_service_from_starting_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str], kind: type[Exception], words: str
) -> None:
    monkeypatch.delenv("ECHODFKD_TEACHER_TOKEN", raising=False)
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(kind) as caught:
        run_teacher_service(load_config(None, overrides), print)
    assert words in str(caught.value)


def test_a_port_that_another_service_shares_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve's own sockets let others in beside them (SO_REUSEPORT)."""
    monkeypatch.delenv("ECHODFKD_TEACHER_TOKEN", raising=False)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RunError, match=rf"serve.port: 127.0.0.1:{port} cannot be listened on: Address already"):
            run_teacher_service(load_config(None, [f"serve.port={port}"]), print)
