"""A remote teacher against a service in this process: whatever happens on the way, masks are those of the teacher
behind it or the run ends with one sentence.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echodfkd.config.file import load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.sections.remote import RemoteConfig
from echodfkd.core.errors import InputError, RunError
from echodfkd.core.mask_codes import quantise
from echodfkd.models.teachers.protocol import ClipKey
from echodfkd.runtime.stream.builders import load_teacher
from echodfkd.teaching.reference import make_reference
from echodfkd.teaching.remote import connection as module
from echodfkd.teaching.remote.client import RemoteTeacher
from echodfkd.teaching.remote.messages import Limits
from tests.helpers.ports import free_port
from tests.helpers.remote import LIMITS, TOKEN, FakeServer, FakeTeacher, make_certificate
from tests.helpers.teachers import lv_prob, masks_of

VIDEO = np.random.default_rng(0).integers(0, 255, (12, 5, 16, 16), dtype=np.uint8)  # 255 would be a clip at fault


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts of milliseconds; and no token of this machine."""
    monkeypatch.setattr(module, "BACK_OFF_S", 0.01)
    monkeypatch.delenv("ECHODFKD_TEACHER_TOKEN", raising=False)


def client(server: FakeServer, **options: object) -> RemoteTeacher:
    token = str(options.pop("token", TOKEN))
    known = {"deadline_s": 20.0, "read_timeout_s": 2.0, "frames_per_request": 5}
    return RemoteTeacher(RemoteConfig(url=server.url, **{**known, **options}), token)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("frames", [0, 5, 20])
def test_masks_are_those_of_the_teacher_quantised_however_they_are_cut(num_classes: int, frames: int) -> None:
    local = FakeTeacher(num_classes=num_classes)
    with FakeServer(local) as server:
        teacher = client(server, frames_per_request=frames)
        assert (teacher.teacher_id, teacher.class_names) == (local.teacher_id, local.class_names)
        prob, _ = masks_of(teacher, VIDEO)
        requests = sum(server.done.values())
    np.testing.assert_array_equal(quantise(prob), quantise(masks_of(local, VIDEO)[0]))
    assert prob.dtype == np.float32
    assert requests == {0: 1, 5: 12, 20: 3}[frames]


def test_nothing_is_lost_or_mixed_up_where_every_second_request_fails() -> None:
    kinds = ["500", "503", "reset", "lost", "truncated", "damaged", "misshapen", "text", "huge", "endless", "delay 0.1"]

    def fault(number: int) -> str:
        return kinds[number // 2 % len(kinds)] if number % 2 else ""

    with FakeServer(fault=fault) as server:
        prob = lv_prob(client(server, requests_in_flight=3), VIDEO[:, :4])
        assert set(kinds) <= set(server.faults)
    np.testing.assert_array_equal(quantise(prob), VIDEO[:, :4])
    assert len(server.done) == len(VIDEO)  # twelve different requests, some made more than once


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500", "the last attempt: it answered 500: no reason was given"),
        ("reset", "the last attempt: it was not reached"),
        ("truncated", r"the last attempt: its answer broke off after \d+ bytes"),
        ("damaged", "do not have the sha256 in its header"),
        ("misshapen", r"holds masks of shape \[1, 5, 16, 15\], expected \[1, 5, 16, 16\]"),
        ("text", "is no message of this protocol"),
        ("huge", r"its answer would have '1000000000000000' bytes, expected at most \d+"),
        ("endless", r"its answer has more than \d+ bytes"),
        ("drip", r"its answer was still coming after \d+ bytes"),
        ("delay 5", r"it was not reached \(ReadTimeoutError"),
    ],
)
def test_a_service_that_stays_at_fault_ends_the_run_with_one_sentence(fault: str, words: str) -> None:
    with FakeServer(fault=lambda number: fault) as server:
        teacher = client(server, deadline_s=1.5, read_timeout_s=1.0)
        began = time.monotonic()
        with pytest.raises(RunError, match=rf"gave no masks within 1.5 s.*{words}"):
            lv_prob(teacher, VIDEO[:1])
        assert time.monotonic() - began < 6  # the deadline, and a loaded machine
        assert sum(server.faults.values()) >= 1


def test_a_service_that_is_killed_and_comes_back_is_waited_for() -> None:
    port = free_port()
    first = FakeServer(FakeTeacher(delay_s=0.05), port=port)
    teacher = client(first)
    found: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: found.append(lv_prob(teacher, VIDEO)))
    thread.start()
    while sum(first.done.values()) < 3:
        time.sleep(0.01)
    first.close()
    time.sleep(0.3)
    with FakeServer(port=port) as second:
        thread.join(20)
        assert sum(second.done.values()) >= 1
    np.testing.assert_array_equal(quantise(found[0]), VIDEO)


def test_frames_that_the_served_teacher_refuses_are_sent_once_and_its_sentence_ends_the_run() -> None:
    class Strict(FakeTeacher):
        def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
            raise InputError("window.size: this teacher needs H and W divisible by 32")

    with FakeServer(Strict()) as server:
        with pytest.raises(InputError, match=r"answered 422: window.size: this teacher needs H and W divisible by 32"):
            lv_prob(client(server), VIDEO[:1])
        assert list(server.done.values()) == [1]


def test_another_teacher_behind_the_same_address_is_an_error_that_names_both() -> None:
    with FakeServer(fault=lambda number: "other teacher" if number == 7 else "") as server:
        with pytest.raises(RunError, match=r"now teaches with another-2, this run began with fake-1; masks of two"):
            lv_prob(client(server), VIDEO)


def test_no_more_requests_are_under_way_than_allowed() -> None:
    with FakeServer(FakeTeacher(delay_s=0.03)) as server:
        lv_prob(client(server, requests_in_flight=3), VIDEO)
        assert server.at_once == 3


def test_a_pause_that_the_service_asks_for_is_kept_unless_it_is_past_the_deadline() -> None:
    with FakeServer() as server:
        teacher = client(server)
        service, asked = teacher._service, list[float]()
        request = service.request

        def busy_once(*args: Any) -> bytes:
            asked.append(time.monotonic())
            if len(asked) == 1:
                raise module.RetryableError("it answered 503", module._pause("1"))
            return request(*args)

        service.request = busy_once  # type: ignore[method-assign]
        lv_prob(teacher, VIDEO[:1])
        assert asked[1] - asked[0] >= 1
        teacher._deadline_s = 0.5
        asked.clear()
        with pytest.raises(RunError, match="it answered 503"):
            lv_prob(teacher, VIDEO[:1])
        assert len(asked) == 1
    assert module._pause("Sat, 21 Nov 2099 10:00:00 GMT") > 1e9
    assert [module._pause(text) for text in ("", "soon", "-5", "٣", "9" * 40)] == [0] * 5


def test_a_clip_without_a_usable_mask_is_quarantined_as_with_a_local_teacher() -> None:
    video = VIDEO.copy()
    video[3, 0, 0, 0] = video[8, 0, 0, 0] = 255
    keys = [ClipKey(f"c{number}", number, 0) for number in range(len(video))]
    with FakeServer() as server:
        prob, faults = masks_of(client(server, frames_per_request=15), video, keys)
    assert faults == masks_of(FakeTeacher(), video, keys)[1]
    assert list(faults) == [3, 8]
    assert np.isfinite(np.delete(prob, [3, 8], axis=0)).all()


def test_a_clip_larger_than_the_service_takes_is_one_sentence() -> None:
    with FakeServer(limits=Limits(max_body_bytes=1 << 20, max_frames=4, max_side=64)) as server:
        with pytest.raises(InputError, match=r"takes up to 4 frames .* a clip has 5 frames of 16 x 16"):
            lv_prob(client(server), VIDEO)
        assert not server.done


@pytest.mark.parametrize("token", ["", "another-token-that-is-wrong"])
def test_a_wrong_token_is_one_sentence_that_shows_no_token(token: str) -> None:
    with FakeServer() as server:
        with pytest.raises(InputError, match="wants its token") as caught:
            client(server, token=token)
    assert TOKEN not in str(caught.value)
    assert not token or token not in str(caught.value)


def test_a_service_that_says_our_token_back_does_not_get_it_into_a_sentence() -> None:
    with FakeServer() as server:
        teacher = client(server)
        sentence = teacher._service._sentence(b'{"error": "got %s\\u001b[31m"}' % TOKEN.encode())
    assert sentence == "got ***\\x1b[31m"


def test_nobody_there_at_the_start_is_one_sentence() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(InputError, match=rf"no teacher at {url}, which was asked for 0.3 s; it was not reached"):
        RemoteTeacher(RemoteConfig(url=url, deadline_s=0.3), TOKEN)


def test_tls_is_checked_against_the_file_that_vouches_for_it(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    if certificate is None:
        pytest.skip("there is no openssl command to make a certificate with")
    with FakeServer(certificate=certificate) as server:
        np.testing.assert_array_equal(quantise(lv_prob(client(server, ca_file=str(certificate[0])), VIDEO)), VIDEO)
        with pytest.raises(InputError, match=r"is not trusted: .*CERTIFICATE_VERIFY_FAILED.*teacher.remote.ca_file"):
            client(server)
        with pytest.raises(InputError, match=r"ca_file: .*service.key cannot be read as PEM certificates"):
            client(server, ca_file=str(certificate[1]))


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., object]:
    """Builds the teacher of a config that asks a server."""

    def build(server: FakeServer, *overrides: str) -> object:
        (tmp_path / "token").write_text(TOKEN + "\n")
        known = [f"teacher.remote.url={server.url}", f"teacher.remote.token_file={tmp_path}/token"]
        return load_teacher(load_config(None, ["students.a.blocks=1", "teacher.kind=remote", *known, *overrides]))

    return build


def test_reference_and_cache_hold_a_remote_teacher_as_any_other(tmp_path: Path, configured: Callable[..., any]) -> None:
    reference = tmp_path / "lv.reference.safetensors"
    reference.write_bytes(make_reference(FakeTeacher(), VIDEO[0]))
    checked = f"teacher.reference={reference}"
    keys = [ClipKey(f"c{number}", number, 0) for number in range(len(VIDEO))]
    with FakeServer() as server:
        first = configured(server, checked, f"teacher.cache={tmp_path}/cache")
        taught, _ = masks_of(first, VIDEO, keys)
        before = sum(server.done.values())
        again = configured(server, f"teacher.cache={tmp_path}/cache")
        kept, _ = masks_of(again, VIDEO, keys)
        assert sum(server.done.values()) == before
    assert (again.teacher_id, again.counts) == ("fake-1", {"hit": 12})
    np.testing.assert_array_equal(quantise(kept)[:, :, 0], VIDEO)
    np.testing.assert_array_equal(kept, taught)
    reference.write_bytes(make_reference(FakeTeacher(), VIDEO[1] // 2))
    spoiled = reference.read_bytes()
    reference.write_bytes(spoiled[: -VIDEO[1].nbytes] + VIDEO[0].tobytes())  # a frame, and the mask of another
    with FakeServer() as server, pytest.raises(InputError, match="fake-1 does not give the mask stored in"):
        configured(server, checked)


def test_where_a_service_is_and_how_it_is_asked_leaves_a_run_what_it_is() -> None:
    plain = ["students.a.blocks=1", "teacher.kind=remote", "teacher.remote.url=https://a.example"]
    moved = [*plain, "teacher.remote.url=https://b.example:1", "teacher.remote.requests_in_flight=7"]
    assert config_hash(load_config(None, plain)) == config_hash(load_config(None, moved))
    assert config_hash(load_config(None, plain)) != config_hash(load_config(None, ["students.a.blocks=1"]))
    assert LIMITS.clips_in((5, 16, 16)) == 12
