"""The service of a remote teacher, without a web server: admits requests and answers them.

`echodfkd.runtime.teacher_service` puts it behind Ray Serve. Of a failure inside, a client sees one sentence only.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import sys
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from echodfkd.config.sections.remote import TOKEN_VARIABLE
from echodfkd.core.errors import EchoDFKDError, InputError, one_line, plain_sentence
from echodfkd.core.mask_codes import PROBABILITY
from echodfkd.core.terminal import print_line, print_traceback
from echodfkd.models.teachers.protocol import Teacher
from echodfkd.teaching.remote.messages import (
    MEDIA_TYPE,
    Limits,
    MaskResponse,
    ServiceInfo,
    TooLargeError,
    decode_video,
    encode_info,
    encode_masks,
)

INFO_PATH, MASKS_PATH = "/v1/teacher", "/v1/masks"
MIN_TOKEN, MAX_TOKEN = 16, 4096
STEP_PIXELS = 1 << 20
"""Pixels that are taught before another request has its turn: 83 frames of 112 x 112."""
_PATH = re.compile(r"(?<![\w.])/[^\s:,;()]+")
"""A path in a library's error: the client learns none."""
RETRY_AFTER_S = 1
"""Pause that a service with a full queue asks for."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class MaskService:
    """Answers requests with one teacher's masks.

    Args:
        teacher: makes the masks, one call at a time.
        limits: of a request.
        token: that requests must carry; "" admits every request.
    """

    def __init__(self, teacher: Teacher, limits: Limits, token: str) -> None:
        self.teacher, self.limits = teacher, limits
        self._token = token.encode()
        self._info = encode_info(ServiceInfo(teacher.teacher_id, teacher.class_names, limits))

    def admit(self, method: str, path: str, headers: Mapping[str, str]) -> Answer | int:
        """Check a request before any of its body is read.

        Args:
            method: GET, POST ...
            path: of the URL.
            headers: with names in lower case.

        Returns:
            The answer, or how many bytes of body to read and give to `teach`.
        """
        if self._token and not hmac.compare_digest(_given(headers), self._token):
            return _refusal(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})
        wanted = {INFO_PATH: "GET", MASKS_PATH: "POST"}.get(path)
        if wanted is None:
            return _refusal(404, f"there is nothing here; this service has {INFO_PATH} and {MASKS_PATH}")
        if method != wanted:
            return _refusal(405, f"{path} is asked with {wanted}", {"Allow": wanted})
        if path == INFO_PATH:
            return Answer(200, self._info, {"Content-Type": "application/json"})
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            return _refusal(411, "a request for masks says its length (Content-Length)")
        if len(length) > 18 or int(length) > self.limits.max_body_bytes:
            return _refusal(413, f"the request is larger than {self.limits.max_body_bytes} bytes (serve.max_body_mb)")
        return int(length)

    def teach(self, body: bytes) -> Answer:
        """The masks of a request's body. The same body has the same answer, however often it comes."""
        steps = self.steps(body)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    def steps(self, body: bytes) -> Generator[None, None, Answer]:
        """As `teach`, with a pause after each part of the work, of at most `STEP_PIXELS` or a clip."""
        try:
            video = decode_video(body, self.limits)
        except InputError as error:
            return _refusal(413 if isinstance(error, TooLargeError) else 400, str(error))
        del body
        N, T, H, W = video.shape
        masks = np.empty((N, T, len(self.teacher.class_names) - 1, H, W), np.uint8)
        unusable: set[int] = set()
        try:
            for rows, frames in parts_of(video.shape, by_frame=self.teacher.sees_frames):
                output = self.teacher.teach(video[rows, frames], code=PROBABILITY)
                masks[rows, frames] = output.masks
                unusable.update(rows.start + row for row in output.faults)
                yield
        except Exception as error:
            return _failure(error)
        del video
        masks[sorted(unusable)] = 0
        response = MaskResponse(masks, self.teacher.teacher_id, tuple(sorted(unusable)))
        return Answer(200, encode_masks(response), {"Content-Type": MEDIA_TYPE})


def parts_of(shape_NTHW: tuple[int, ...], *, by_frame: bool) -> Iterator[tuple[slice, slice]]:
    """Clips and frames of the parts in which a request is worked on: as many whole clips as fit into `STEP_PIXELS`.

    A clip that does not fit is cut into frames if the teacher sees a frame at a time, else it is a part of its own.
    """
    N, T, H, W = shape_NTHW
    clips, frames = STEP_PIXELS // (T * H * W), max(1, STEP_PIXELS // (H * W))
    if clips or not by_frame:
        yield from ((slice(first, first + max(1, clips)), slice(T)) for first in range(0, N, max(1, clips)))
    else:
        yield from (
            (slice(row, row + 1), slice(first, first + frames)) for row in range(N) for first in range(0, T, frames)
        )


def _failure(error: Exception) -> Answer:
    """The answer to a request that the teacher could not do. One that it explains is the request's own fault."""
    is_full = isinstance(error.__cause__, MemoryError | torch.OutOfMemoryError)
    if isinstance(error, EchoDFKDError) and not is_full:
        return _refusal(422, _PATH.sub("…", str(error)))
    # the client learns no more than this, the log has the whole error
    print_line(f"a request failed: {one_line(error)}", to=sys.stderr)
    print_traceback(error)
    return _refusal(500, "the teacher failed on this request; the service's log says why")


def busy() -> Answer:
    """The answer of a service whose queue is full."""
    return _refusal(503, "all teachers are busy; come back later", {"Retry-After": str(RETRY_AFTER_S)})


def too_slow() -> Answer:
    """The answer to a body that does not come."""
    return _refusal(408, "the request's body did not arrive in time (serve.body_timeout_s)")


def cut_off() -> Answer:
    """The answer to a body of another length than its Content-Length."""
    return _refusal(400, "the request's body is not as long as its Content-Length says")


def read_token(token_file: str, option: str) -> str:
    """The token in a file, or in the environment if no file is named; "" if there is none.

    Args:
        token_file: its path, or "".
        option: that names it, for the error's sentence.

    Raises:
        InputError: the file cannot be read, or its content is too short to be secret or no plain text.
    """
    where = f"{option} ({token_file})" if token_file else f"the environment variable {TOKEN_VARIABLE}"
    try:
        if token_file:
            with open(token_file, "rb") as file:
                token = file.read(MAX_TOKEN + 2).decode("ascii").strip()
        else:
            token = os.environ.get(TOKEN_VARIABLE, "").strip()
    except (OSError, ValueError) as error:  # the text of a decoding error would show a byte of the secret
        why = error.strerror if isinstance(error, OSError) else "it is not plain ASCII text"
        raise InputError(f"{where} cannot be read, {why}") from None
    if not token and not token_file:
        return ""
    if not MIN_TOKEN <= len(token) <= MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            f"{where} holds {len(token)} characters, expected {MIN_TOKEN} to {MAX_TOKEN} letters, digits and signs"
            " without a space, e.g. of `openssl rand -hex 32`"
        )
    return token


def _given(headers: Mapping[str, str]) -> bytes:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip().encode("utf-8", "replace") if scheme.lower() == "bearer" else b""


def _refusal(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Answer:
    body = json.dumps({"error": plain_sentence(sentence)}).encode()
    return Answer(status, body, {"Content-Type": "application/json", **(headers or {})})
