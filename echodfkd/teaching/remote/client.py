"""A remote teacher: frames go to its service, quantised masks come back (docs/how-to/remote-teacher.md).

A request is a function of pixels alone and the service keeps nothing of it, so that sending one again teaches nothing
twice. What may pass (no connection, a cut or damaged answer, a server at fault or busy) is tried again until the
deadline of the block; what cannot get better by waiting (a token refused, a request refused, another teacher) is one
sentence at once.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import numpy as np

from echodfkd.core import clock
from echodfkd.core.errors import EchoDFKDError, InputError, RunError
from echodfkd.models.teachers.protocol import masks_shape
from echodfkd.teaching.remote.connection import Again, ServiceConnection, persist
from echodfkd.teaching.remote.messages import (
    MAX_TEXT_BYTES,
    About,
    Taught,
    answer_bound,
    decode_about,
    decode_masks,
    encode_video,
)
from echodfkd.teaching.remote.service import ABOUT_PATH, MASKS_PATH

START_S = 30.0
"""A process that starts waits so long for the service (or its deadline, if that is shorter)."""
GRACE_S = 5.0
"""A request that its own deadline has not ended (headers that come letter by letter) is left behind after so long."""


class RemoteTeacher:
    """A `Teacher` whose masks a service makes.

    Args:
        url: of the service, without ``/v1``.
        token: that requests carry; "" for none.
        ca_file: PEM file that vouches for the service, or "" for the system's.
        requests_in_flight: requests under way at the same time.
        frames_per_request: most frames of one request, in whole clips; 0 takes the service's limit.
        connect_timeout_s: of one attempt.
        read_timeout_s: longest silence in one attempt.
        deadline_s: for all attempts of one call of `soft_masks`.

    Raises:
        InputError: the service cannot be reached, refuses the token, or does not speak the protocol.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str,
        ca_file: str = "",
        requests_in_flight: int = 2,
        frames_per_request: int = 0,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 60.0,
        deadline_s: float = 120.0,
    ) -> None:
        self._service = ServiceConnection(
            url,
            token=token,
            ca_file=ca_file,
            connections=requests_in_flight,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
        )
        self.url = self._service.url
        self._deadline_s = deadline_s
        self._frames_per_request = frames_per_request
        self._threads = ThreadPoolExecutor(requests_in_flight, thread_name_prefix="remote-teacher")
        about = self._ask()
        self.teacher_id, self.class_names, self.limits = about.teacher_id, about.class_names, about.limits

    def soft_masks(self, video_NTHW: np.ndarray) -> np.ndarray:
        """See `Teacher.soft_masks`: multiples of 1/255; NaN in clips whose mask the service's teacher could not make.

        Raises:
            InputError: a clip is larger than the service takes, or the service refuses a request for good.
            RunError: no masks came before the deadline, or they are another teacher's.
        """
        until = clock.now() + self._deadline_s
        stop = threading.Event()
        parts = self._split(video_NTHW)
        futures = [self._threads.submit(self._teach, part, until, stop) for part in parts]
        done, waiting = wait(futures, timeout=self._deadline_s + GRACE_S, return_when=FIRST_EXCEPTION)
        stop.set()
        for future in waiting:
            future.cancel()
        for future in done:
            if (error := future.exception()) is not None:
                raise error
        if waiting:
            raise self._gave_up("an answer that does not end")
        answers = [future.result() for future in futures]
        prob = np.concatenate([answer.levels for answer in answers]).astype(np.float32) / np.float32(255)
        starts = np.cumsum([0, *(len(part) for part in parts)])
        for start, answer in zip(starts, answers, strict=False):
            prob[[int(start) + row for row in answer.unusable]] = np.nan
        return prob

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

    def _ask(self) -> About:
        """What the service says of itself."""
        wait_s = min(START_S, self._deadline_s)
        until = clock.now() + wait_s

        def once() -> About:
            data = self._service.exchange("GET", ABOUT_PATH, None, MAX_TEXT_BYTES, until)
            return decode_about(data, f"teacher.remote.url: the answer of {self.url}")

        try:
            return persist(once, until, threading.Event())
        except Again as last:
            raise InputError(
                f"teacher.remote.url: no teacher at {self.url}, which was asked for {wait_s:g} s; {last}"
            ) from None

    def _teach(self, video_NTHW: np.ndarray, until: float, stop: threading.Event) -> Taught:
        """One request, sent again until it is answered."""
        shape = masks_shape(self, video_NTHW)
        body = encode_video(video_NTHW)

        def once() -> Taught:
            data = self._service.exchange("POST", MASKS_PATH, body, answer_bound(shape), until)
            try:
                return decode_masks(data, shape, f"the answer of {self.url}")
            except InputError as error:
                raise Again(str(error)) from error

        try:
            taught = persist(once, until, stop)
        except Again as last:
            raise self._gave_up(str(last)) from None
        if taught.teacher_id != self.teacher_id:
            raise RunError(
                f"teacher.remote.url: {self.url} now teaches with {taught.teacher_id}, this run began with"
                f" {self.teacher_id}; masks of two teachers are not mixed: bring the first one back, or give the run"
                " another name"
            )
        return taught

    def _gave_up(self, reason: str) -> EchoDFKDError:
        return RunError(
            f"teacher.remote.deadline_s: {self.url} gave no masks within {self._deadline_s:g} s; the last attempt:"
            f" {reason}"
        )
