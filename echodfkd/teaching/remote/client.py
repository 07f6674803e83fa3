"""A remote teacher: frames go to its service, quantised masks come back (docs/how-to/remote-teacher.md).

The answer depends on the pixels only and the service keeps nothing, so that a request may be sent again at no risk.
Failures that may pass (no connection, a cut or damaged answer, a server at fault or busy) are retried until the
deadline of the block; others (a refused token, a refused request, another teacher) raise an error at once.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import numpy as np

from echodfkd.config.sections.remote import RemoteConfig
from echodfkd.core import clock
from echodfkd.core.errors import EchoDFKDError, InputError, RunError
from echodfkd.models.teachers.protocol import ClipKey, Teacher, TeacherOutput
from echodfkd.teaching.remote.connection import RetryableError, ServiceConnection, retry
from echodfkd.teaching.remote.messages import (
    MAX_TEXT_BYTES,
    MaskResponse,
    ServiceInfo,
    answer_bound,
    decode_info,
    decode_masks,
    encode_video,
)
from echodfkd.teaching.remote.service import INFO_PATH, MASKS_PATH

START_S = 30.0
"""A process that starts waits so long for the service (or its deadline, if that is shorter)."""
GRACE_S = 5.0
"""A request that its own deadline has not ended (headers that come letter by letter) is left behind after so long."""


class RemoteTeacher(Teacher):
    """Masks that a service makes.

    Args:
        options: of the config (``teacher.remote``).
        token: that requests carry; "" for none.

    Raises:
        InputError: the service cannot be reached, refuses the token, or does not speak the protocol.
    """

    def __init__(self, options: RemoteConfig, token: str) -> None:
        self._service = ServiceConnection(options, token)
        self.url = self._service.url
        self._deadline_s = options.deadline_s
        self._frames_per_request = options.frames_per_request
        self._threads = ThreadPoolExecutor(options.requests_in_flight, thread_name_prefix="remote-teacher")
        info = self._ask()
        self.teacher_id, self.class_names, self.limits = info.teacher_id, info.class_names, info.limits

    def teach(
        self,
        video_NTHW: np.ndarray,
        clips: Sequence[ClipKey] = (),
        *,
        classes: Sequence[str] | None = None,
        code: str | None = None,
    ) -> TeacherOutput:
        """See `Teacher.teach`: multiples of 1/255. Clips whose mask the service's teacher could not make are at fault.

        Raises:
            InputError: a clip is larger than the service takes, or the service refuses a request for good.
            RunError: no masks came before the deadline, or they are another teacher's.
        """
        parts = self._split(video_NTHW)
        responses = self._request_all(parts)
        prob = np.concatenate([response.masks for response in responses]).astype(np.float32) / np.float32(255)
        starts = np.cumsum([0, *(len(part) for part in parts)])
        for start, response in zip(starts, responses, strict=False):
            prob[[int(start) + row for row in response.unusable]] = np.nan
        return self.output_of(prob, video_NTHW, classes=classes, code=code)

    def _request_all(self, parts: Sequence[np.ndarray]) -> list[MaskResponse]:
        """The response to each part, requested at the same time, before the deadline."""
        until = clock.now() + self._deadline_s
        stop = threading.Event()
        futures = [self._threads.submit(self._request, part, until, stop) for part in parts]
        done, waiting = wait(futures, timeout=self._deadline_s + GRACE_S, return_when=FIRST_EXCEPTION)
        stop.set()
        for future in waiting:
            future.cancel()
        for future in done:
            if (error := future.exception()) is not None:
                raise error
        if waiting:
            raise self._gave_up("an answer that does not end")
        return [future.result() for future in futures]

    def _split(self, video_NTHW: np.ndarray) -> list[np.ndarray]:
        """Whole clips, as many to a request as fit."""
        N, T, H, W = video_NTHW.shape
        size = self.limits.clips_in((T, H, W))
        if size < 1:
            raise InputError(
                f"teacher.remote.url: {self.url} takes up to {self.limits.max_frames} frames of up to"
                f" {self.limits.max_side} pixels a side and {self.limits.max_body_bytes} bytes in a request, a clip has"
                f" {T} frames of {H} x {W} (window.frames, window.size, evaluation.frames)"
            )
        if self._frames_per_request:
            size = max(1, min(size, self._frames_per_request // T))
        return [video_NTHW[first : first + size] for first in range(0, N, size)]

    def _ask(self) -> ServiceInfo:
        """Ask the service for its teacher and limits."""
        wait_s = min(START_S, self._deadline_s)
        until = clock.now() + wait_s

        def attempt() -> ServiceInfo:
            data = self._service.request("GET", INFO_PATH, None, MAX_TEXT_BYTES, until)
            return decode_info(data, f"teacher.remote.url: the answer of {self.url}")

        try:
            return retry(attempt, until, threading.Event())
        except RetryableError as last:
            raise InputError(
                f"teacher.remote.url: no teacher at {self.url}, which was asked for {wait_s:g} s; {last}"
            ) from None

    def _request(self, video_NTHW: np.ndarray, until: float, stop: threading.Event) -> MaskResponse:
        """Send one request until it is answered."""
        N, T, H, W = video_NTHW.shape
        shape = (N, T, len(self.class_names) - 1, H, W)
        body = encode_video(video_NTHW)

        def attempt() -> MaskResponse:
            data = self._service.request("POST", MASKS_PATH, body, answer_bound(shape), until)
            try:
                return decode_masks(data, shape, f"the answer of {self.url}")
            except InputError as error:
                raise RetryableError(str(error)) from error

        try:
            response = retry(attempt, until, stop)
        except RetryableError as last:
            raise self._gave_up(str(last)) from None
        if response.teacher_id != self.teacher_id:
            raise RunError(
                f"teacher.remote.url: {self.url} now teaches with {response.teacher_id}, this run began with"
                f" {self.teacher_id}; masks of two teachers are not mixed: bring the first one back, or give the run"
                " another name"
            )
        return response

    def _gave_up(self, reason: str) -> EchoDFKDError:
        return RunError(
            f"teacher.remote.deadline_s: {self.url} gave no masks within {self._deadline_s:g} s; the last attempt:"
            f" {reason}"
        )
