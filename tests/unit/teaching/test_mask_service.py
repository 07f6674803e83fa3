"""The service's side of a remote teacher: who is let in, what is refused, and that refusals are sentences."""

import dataclasses
import hashlib
import json
import random
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

from echodfkd.config.file import config_to_yaml, load_config
from echodfkd.core.errors import ConfigError, InputError, RunError
from echodfkd.core.redaction import redact
from echodfkd.teaching.remote.messages import (
    Limits,
    MaskResponse,
    ServiceInfo,
    decode_info,
    decode_masks,
    decode_video,
    encode_info,
    encode_masks,
    encode_video,
)
from echodfkd.teaching.remote.service import Answer, MaskService, busy, parts_of, read_token
from tests.helpers.remote import LIMITS, TOKEN, FakeTeacher

VIDEO = np.random.default_rng(0).integers(0, 255, (3, 5, 16, 16), dtype=np.uint8)
HEADERS = {"authorization": f"Bearer {TOKEN}"}


def service(token: str = TOKEN, **teacher: object) -> MaskService:
    return MaskService(FakeTeacher(**teacher), LIMITS, token)  # type: ignore[arg-type]


def sentence(answer: Answer | int) -> tuple[int, str]:
    assert isinstance(answer, Answer)
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status, json.loads(answer.body)["error"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "words"),
    [
        ("GET", "/v1/teacher", {}, 401, "the token is missing or wrong"),
        ("GET", "/v1/teacher", {"authorization": "Bearer "}, 401, "the token"),
        ("GET", "/v1/teacher", {"authorization": f"Bearer {TOKEN[:-1]}"}, 401, "the token"),
        ("GET", "/v1/teacher", {"authorization": f"Bearer {TOKEN}é"}, 401, "the token"),
        ("GET", "/v1/teacher", {"authorization": f"Basic {TOKEN}"}, 401, "the token"),
        ("GET", "/v1/nothing", {}, 401, "the token"),
        ("GET", "/v1/nothing", HEADERS, 404, "this service has /v1/teacher and /v1/masks"),
        ("GET", "/v1/masks", HEADERS, 405, "/v1/masks is asked with POST"),
        ("POST", "/v1/masks", HEADERS, 411, "says its length"),
        ("POST", "/v1/masks", {**HEADERS, "content-length": "-5"}, 411, "says its length"),
        ("POST", "/v1/masks", {**HEADERS, "content-length": "٣"}, 411, "says its length"),
        ("POST", "/v1/masks", {**HEADERS, "content-length": "1048577"}, 413, "larger than 1048576 bytes"),
        ("POST", "/v1/masks", {**HEADERS, "content-length": "9" * 5000}, 413, "larger than 1048576 bytes"),
        ("POST", "/v1/masks", {"content-length": "9" * 5000}, 401, "the token"),
    ],
)
def test_a_request_is_refused_before_its_body_is_read(
    method: str, path: str, headers: dict[str, str], status: int, words: str
) -> None:
    found = sentence(service().admit(method, path, headers))
    assert found[0] == status
    assert words in found[1]


def test_who_has_the_token_gets_in_and_without_one_everybody() -> None:
    told = service(num_classes=2).admit("GET", "/v1/teacher", HEADERS)
    assert isinstance(told, Answer)
    assert decode_info(told.body, "it") == ServiceInfo("fake-1", ("background", "LV", "LA"), LIMITS)
    assert service().admit("POST", "/v1/masks", {**HEADERS, "content-length": "17"}) == 17
    assert isinstance(service(token="").admit("GET", "/v1/teacher", {}), Answer)
    assert sentence(busy())[0] == 503
    assert busy().headers["Retry-After"] == "1"


def changed(message: bytes, **header: object) -> bytes:
    """The message with other values in its header, or another array."""
    size = int.from_bytes(message[4:8], "little")
    blob = header.pop("blob", message[8 + size :])
    values = {**json.loads(message[8 : 8 + size]), "sha256": hashlib.sha256(blob).hexdigest(), **header}
    text = json.dumps(values).encode()
    return message[:4] + len(text).to_bytes(4, "little") + text + blob


GOOD = encode_video(VIDEO)
BOMB = pa.Codec("zstd").compress(bytes(1 << 26), asbytes=True)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "no message of this protocol (0 bytes)"),
        (GOOD[:-1], 400, "do not have the sha256"),
        (b"EDM2" + GOOD[4:], 400, "no message of this protocol"),
        (GOOD[:4] + b"\xff\xff\xff\xff" + GOOD[8:], 400, "no message of this protocol"),
        (GOOD[:8] + b"[" + GOOD[9:], 400, "is not readable JSON"),
        (changed(GOOD, dtype="object"), 400, "holds 'object' as 'zstd', expected uint8 as zstd"),
        (changed(GOOD, codec="pickle"), 400, "expected uint8 as zstd"),
        (changed(GOOD, shape=[3, 5, 16]), 400, "its shape [3, 5, 16] is no list of 4 numbers above 0"),
        (changed(GOOD, shape=[3, 5, 16, -16]), 400, "is no list of 4 numbers"),
        (changed(GOOD, shape=[3, 5, 16, True]), 400, "is no list of 4 numbers"),
        (changed(GOOD, shape=[3, 5, 16, 1e9]), 400, "is no list of 4 numbers"),
        (changed(GOOD, shape=[3, 5, 16, 17]), 400, "does not decompress to [3, 5, 16, 17]"),
        (changed(GOOD, shape=[65, 1, 16, 16]), 413, "has 65 frames of 16 x 16 pixels, this service takes up to 64"),
        (changed(GOOD, shape=[1, 1, 65, 1]), 413, "of up to 64 x 64"),
        (changed(GOOD, shape=[1 << 30, 1 << 30, 16, 16]), 413, "this service takes up to 64"),
        (changed(GOOD, shape=[64, 1, 64, 64], blob=BOMB), 400, "does not decompress to [64, 1, 64, 64]"),
        (changed(GOOD, shape=[1, 64, 64, 64], blob=b""), 400, "does not decompress to [1, 64, 64, 64]"),
        (changed(GOOD, blob=BOMB), 400, "does not decompress to [3, 5, 16, 16]"),
        (changed(GOOD, sha256=None), 400, "do not have the sha256"),
    ],
)
def test_a_malformed_body_is_refused_with_a_sentence(body: bytes, status: int, words: str) -> None:
    found = sentence(service().teach(body))
    assert found[0] == status
    assert words in found[1]


@pytest.mark.parametrize("num_classes", [1, 3])
def test_an_answer_holds_the_quantised_masks_and_says_which_clips_have_none(num_classes: int) -> None:
    video = VIDEO.copy()
    video[1, 0, 0, 0] = 255  # FakeTeacher gives NaN
    shape = (3, 5, num_classes, 16, 16)
    answers = [service(num_classes=num_classes).teach(encode_video(video)) for _ in range(2)]
    assert answers[0] == answers[1], "the same request has the same answer"
    assert answers[0].status == 200
    taught = decode_masks(answers[0].body, shape, "it")
    assert (taught.teacher_id, taught.unusable) == ("fake-1", (1,))
    np.testing.assert_array_equal(taught.masks[[0, 2], :, 0], video[[0, 2]])
    assert not taught.masks[1].any()
    header = json.loads(answers[0].body[8 : 8 + int.from_bytes(answers[0].body[4:8], "little")])
    assert header["shape"] == ([3, 5, 16, 16] if num_classes == 1 else list(shape))
    np.testing.assert_array_equal(decode_video(encode_video(video), LIMITS), video)


def test_a_teacher_that_fails_is_a_sentence_outside_and_a_traceback_in_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = service()
    broken.teacher.prob = lambda video: 1 / 0  # type: ignore[attr-defined]
    status, words = sentence(broken.teach(GOOD))
    assert (status, words) == (500, "the teacher failed on this request; the service's log says why")
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InputError("window.size: the teacher needs H and W divisible by 8"), 422, "needs H and W divisible by 8"),
        (RunError("its network fails: at /opt/ort/graph.cc:12 of 1/255"), 422, "its network fails: at …:12 of 1/255"),
        (MemoryError(), 500, "the teacher failed on this request; the service's log says why"),
    ],
)
def test_what_the_teacher_explains_is_the_requests_own_fault(error: Exception, status: int, words: str) -> None:
    refusing = service()

    def refuse(video: np.ndarray) -> np.ndarray:
        raise error

    refusing.teacher.prob = refuse  # type: ignore[attr-defined]
    assert sentence(refusing.teach(GOOD)) == (status, sentence(refusing.teach(GOOD))[1])
    assert words in sentence(refusing.teach(GOOD))[1]


def test_memory_that_runs_out_is_the_services_fault() -> None:
    full = service()

    def fail(video: np.ndarray) -> np.ndarray:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except RuntimeError as error:
            raise RunError("the teacher's network fails on an input") from error

    full.teacher.prob = fail  # type: ignore[attr-defined]
    assert sentence(full.teach(GOOD))[0] == 500


@pytest.mark.parametrize("by_frame", [True, False])
@pytest.mark.parametrize("shape", [(7, 3, 4, 4), (2, 50, 4, 4), (1, 1, 40, 40), (3, 16, 4, 4)])
def test_the_parts_of_a_request_are_all_of_it_once(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], by_frame: bool
) -> None:
    monkeypatch.setattr("echodfkd.teaching.remote.service.STEP_PIXELS", 256)
    seen = np.zeros(shape, int)
    for rows, frames in parts_of(shape, by_frame=by_frame):
        seen[rows, frames] += 1
        clip = shape[1] * shape[2] * shape[3]
        most = max(256, shape[2] * shape[3]) if by_frame else max(256, clip)
        assert seen[rows, frames].size <= most
    assert (seen == 1).all()


@pytest.mark.parametrize("sees_frames", [True, False])
def test_an_answer_in_parts_is_the_answer(monkeypatch: pytest.MonkeyPatch, sees_frames: bool) -> None:
    monkeypatch.setattr("echodfkd.teaching.remote.service.STEP_PIXELS", 600)  # two frames of sixteen pixels a side
    video = VIDEO.copy()
    video[2, 3 if sees_frames else 0, 0, 0] = 255  # FakeTeacher gives NaN where what it is shown begins so
    video[2, 4, 0, 0] = 255
    parts = service()
    parts.teacher.sees_frames = sees_frames
    taught = decode_masks(parts.teach(encode_video(video)).body, (3, 5, 1, 16, 16), "it")
    assert taught.unusable == (2,)
    np.testing.assert_array_equal(taught.masks[:2, :, 0], video[:2])
    assert not taught.masks[2].any()


def test_no_body_has_more_allocated_than_the_limits_say() -> None:
    """Bodies of a kilobyte or so whose headers and arrays promise anything, a gigabyte of zeros among them."""
    rng = random.Random(0)
    limits = Limits(max_body_bytes=1 << 18, max_frames=64, max_side=64)
    strict = MaskService(FakeTeacher(), limits, "")
    sides = [0, 1, 3, 5, 16, 64, 65, 1 << 10, 1 << 16, 1 << 31, 1 << 62]
    blobs = [GOOD[-200:], BOMB, b"", pa.Codec("zstd").compress(bytes(1 << 18), asbytes=True)]
    statuses: Counter[int] = Counter()
    tracemalloc.start()
    try:
        for _ in range(1500):
            shape = [rng.choice(sides) for _ in range(rng.choice([4, 4, 4, 3, 5]))]
            header = (
                {"shape": shape} if rng.random() < 0.9 else {"shape": rng.choice([[3, 5, 16, 16], None, "x", [1] * 4])}
            )
            body = changed(GOOD, blob=rng.choice(blobs), **header)
            if rng.random() < 0.1:
                place = rng.randrange(len(body))
                body = body[:place] + bytes([rng.randrange(256)]) + body[place + 1 :]
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            statuses[strict.teach(body).status] += 1
            assert tracemalloc.get_traced_memory()[1] - before <= limits.held_bytes(1) + (1 << 18), shape
    finally:
        tracemalloc.stop()
    assert set(statuses) <= {200, 400, 413}
    assert statuses[413] > 100
    assert statuses[400] > 100


MASKS = encode_masks(MaskResponse(VIDEO[:, :, None], "fake-1", (1,)))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (changed(MASKS, teacher_id="../x"), "its teacher_id '../x' is no plain name"),
        (changed(MASKS, teacher_id=None), "is no plain name"),
        (changed(MASKS, unusable=[3]), "are no rows of 3 clips"),
        (changed(MASKS, unusable="all"), "are no rows of 3 clips"),
        (changed(MASKS, shape=[3, 5, 1, 16, 16]), "holds masks of shape [3, 5, 1, 16, 16], expected [3, 5, 16, 16]"),
        (changed(MASKS, blob=BOMB), "does not decompress"),
        (GOOD, "its teacher_id 'None' is no plain name"),
    ],
)
def test_a_malformed_answer_is_refused_with_a_sentence(message: bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        decode_masks(message, (3, 5, 1, 16, 16), "it")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": 2}, "speaks protocol '2', not 1"),
        ({"teacher_id": "a/b"}, "its teacher_id 'a/b' is no plain name"),
        ({"class_names": ["LV"]}, "no list of names that begins with background"),
        ({"class_names": ["background", "LV", "LV"]}, "no list of names"),
        ({"class_names": ["background", "<script>"]}, "no list of names"),
        ({"class_names": 7}, "no list of names"),
        ({"limits": {"max_body_bytes": 5, "max_frames": 0, "max_side": 1}}, "are no numbers in 1 .."),
        ({"limits": []}, "are no numbers in 1 .."),
    ],
)
def test_a_service_that_says_nonsense_of_itself_is_refused(change: dict[str, object], words: str) -> None:
    values = json.loads(encode_info(ServiceInfo("fake-1", ("background", "LV"), LIMITS)))
    with pytest.raises(InputError) as caught:
        decode_info(json.dumps({**values, **change}).encode(), "it")
    assert words in str(caught.value)


def test_whole_clips_that_are_said_to_fit_fit_even_where_nothing_compresses() -> None:
    limits = Limits(max_body_bytes=200_000, max_frames=10_000, max_side=64)
    count = limits.clips_in((5, 32, 32))
    noise = np.random.default_rng(1).integers(0, 255, (count, 5, 32, 32), dtype=np.uint8)
    assert count > 10
    assert len(encode_video(noise)) <= limits.max_body_bytes
    assert limits.clips_in((5, 32, 65)) == 0
    assert dataclasses.replace(limits, max_frames=9).clips_in((5, 32, 32)) == 1
    answer = MaskService(FakeTeacher(), limits, "").teach(encode_video(noise))
    np.testing.assert_array_equal(decode_masks(answer.body, noise[:, :, None].shape, "it").masks[:, :, 0], noise)


def test_a_token_comes_from_a_file_or_the_environment_and_is_in_no_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    path.write_text(f"  {TOKEN}\n")
    monkeypatch.delenv("ECHODFKD_TEACHER_TOKEN", raising=False)
    assert read_token(str(path), "serve.token_file") == TOKEN
    assert read_token("", "serve.token_file") == ""
    monkeypatch.setenv("ECHODFKD_TEACHER_TOKEN", TOKEN + "-b")
    assert read_token("", "serve.token_file") == TOKEN + "-b"
    for text in ("short-one-here", "with a space in the middle of it", "not-ascii-é-not-ascii-é"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"serve\.token_file \(.*secret\) ") as caught:
            read_token(str(path), "serve.token_file")
        assert text not in str(caught.value)
    with pytest.raises(InputError, match=r"nowhere\) cannot be read, No such file"):
        read_token(str(tmp_path / "nowhere"), "serve.token_file")
    assert redact(f"Authorization: Bearer {TOKEN}") == "Authorization: Bearer ***"


def test_the_stored_config_names_the_file_and_not_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(TOKEN)
    overrides = ["students.a.blocks=1", "teacher.kind=remote", "teacher.remote.url=https://a.example"]
    text = config_to_yaml(load_config(None, [*overrides, f"teacher.remote.token_file={tmp_path}/secret"]))
    assert TOKEN not in text
    assert yaml.safe_load(text)["teacher"]["remote"]["token_file"] == f"{tmp_path}/secret"


REMOTE = ["students.a.blocks=1", "teacher.kind=remote"]
AT = "teacher.remote.url"
HTTPS = f"{AT}=https://a.example"
MEMBERS = "teacher.members={a: {kind: embedded}, b: {kind: %s, remote: {url: 'https://b.example', deadline_s: 299}}}"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (REMOTE, f"{AT}: empty, name the service"),
        ([*REMOTE, f"{AT}=ftp://a.example"], f"{AT}: got 'ftp://a.example', expected http:// or https://"),
        ([*REMOTE, f"{AT}=https://"], "expected http:// or https://"),
        ([*REMOTE, f"{AT}=https://a.example:99999"], "expected http:// or https://"),
        ([*REMOTE, f"{AT}='https://a.example/?x=1'"], "expected http:// or https://"),
        ([*REMOTE, f"{AT}=https://user:pw@a.example"], "a user or a token does not belong into it"),
        ([*REMOTE, f"{AT}=http://a.example"], "over which anybody on the way could read frames, masks and token"),
        ([*REMOTE, f"{AT}=http://127.0.0.1.a.example"], "over which anybody on the way"),
        (
            [*REMOTE, HTTPS, "teacher.remote.deadline_s=300"],
            "deadline_s: got 300 s (over all remote teachers), must be",
        ),
        ([*REMOTE, HTTPS, "teacher.timeout_s=0", "teacher.remote.deadline_s=600"], "below data.no_progress_timeout_s"),
        ([*REMOTE, HTTPS, "teacher.remote.deadline_s=0"], "deadline_s: got 0.0, must be above 0"),
        ([*REMOTE, HTTPS, "teacher.remote.requests_in_flight=0"], "requests_in_flight: got 0, must be at least 1"),
        ([*REMOTE, HTTPS, "teacher.weights=x"], "teacher.weights: has no effect if teacher.kind is remote"),
        (["students.a.blocks=1", HTTPS], "teacher.remote: has no effect if teacher.kind is embedded"),
        (["students.a.blocks=1", "teacher.kind=ensemble", MEMBERS % "remote", "teacher.timeout_s=299"], "got 299 s"),
        (["serve.port=70000"], "serve.port: got 70000, must lie in 0 .. 65535"),
        (["serve.port=1", "serve.host='a b'"], "serve.host: got 'a b'"),
        (["serve.port=1", "serve.key_file=k"], "certificate_file and key_file belong together"),
        (["serve.port=1", "serve.max_body_mb=0"], "serve.max_body_mb: got 0, must lie in 1 .. 1024"),
        (["serve.port=1", "serve.body_timeout_s=0"], "serve.body_timeout_s: got 0.0, must be above 0"),
        (["serve.port=1", "teacher.kind=remote", HTTPS], "teacher.kind: got 'remote', which cannot be served"),
        (["serve.port=1", "teacher.kind=recorded", "teacher.weights=x"], "its masks are found by clip, not by pixels"),
        (["serve.port=1", "teacher.kind=ensemble", MEMBERS % "remote"], "teacher.members.b.kind: got 'remote'"),
        (["serve.port=1", "teacher.cache=x"], "teacher.cache: has no use in a service"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://localhost:1", "http://[::1]:8000", "https://a.example/x"]
)
def test_plain_http_stays_on_this_machine_unless_it_is_allowed(url: str) -> None:
    assert load_config(None, [*REMOTE, f"{AT}='{url}'"]).teacher.remote.url == url
    allowed = load_config(None, [*REMOTE, f"{AT}=http://a.example", "teacher.remote.allow_plain_http=true"])
    assert allowed.teacher.remote.allow_plain_http
