"""The replica's queue, without Serve around it; and what keeps a service from starting. No cluster is started."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

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


def post(replica: TeacherReplica, body: AsyncIterator[bytes], **headers: str) -> object:
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
    assert replica._held == 0


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
