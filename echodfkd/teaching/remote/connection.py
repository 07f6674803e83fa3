"""HTTP requests to a teacher's service: retried while that can help, and read without trust."""

from __future__ import annotations

import email.utils
import random
import ssl
import threading
from collections.abc import Callable
from typing import TypeVar

import urllib3

from echodfkd.config.sections.remote import RemoteConfig
from echodfkd.core import clock
from echodfkd.core.errors import InputError, one_line, plain_sentence
from echodfkd.core.redaction import HIDDEN
from echodfkd.storage.untrusted import parse_json_object
from echodfkd.teaching.remote.messages import MAX_TEXT_BYTES, MEDIA_TYPE

BACK_OFF_S, MAX_BACK_OFF_S = 0.2, 10.0
"""The first pause before a request is sent again; each is twice the one before, up to the second number, times a
random factor of 0.5 .. 1 so that actors do not come back all at once."""
PIECE = 1 << 16

TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed later."""

_T = TypeVar("_T")


class RetryableError(Exception):
    """Why one attempt failed, and the pause that the service asked for, in seconds."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


def retry(attempt: Callable[[], _T], until: float, stop: threading.Event) -> _T:
    """Repeat an attempt until it succeeds, the deadline is near, or ``stop`` is set.

    Raises:
        RetryableError: the last one, or the one before if the deadline cut the last attempt short.
    """
    pause, before = BACK_OFF_S, None
    while True:
        try:
            return attempt()
        except RetryableError as failure:
            if before is not None and clock.now() >= until:
                raise before from None  # this attempt was cut short: the one before explains more
            before = failure
            rest = max(pause * random.uniform(0.5, 1.0), failure.after_s)  # noqa: S311 guards nothing
            if clock.now() + rest >= until or stop.wait(rest):
                raise
            pause = min(2 * pause, MAX_BACK_OFF_S)


class ServiceConnection:
    """Connections to one service, for any number of threads.

    Args:
        options: of the config (``teacher.remote``).
        token: that requests carry; "" for none.

    Raises:
        InputError: ``ca_file`` cannot be used.
    """

    def __init__(self, options: RemoteConfig, token: str) -> None:
        self.url = options.url.rstrip("/")
        self._token = token
        self._timeouts = (options.connect_timeout_s, options.read_timeout_s)
        self._pool = urllib3.PoolManager(
            num_pools=1,
            maxsize=options.requests_in_flight,
            ssl_context=_trust(options.ca_file) if options.ca_file else None,
        )

    def request(self, method: str, path: str, body: bytes | None, most: int, until: float) -> bytes:
        """Make one attempt at one request.

        Args:
            method: GET or POST.
            path: after the service's URL.
            body: of the request.
            most: bytes that an answer may have.
            until: `clock.now` at which it has to be over.

        Returns:
            The body of its answer.

        Raises:
            RetryableError: it failed, and may succeed later.
            InputError: it failed for good.
        """
        left = max(0.1, until - clock.now())
        connect_s, read_s = (min(seconds, left) for seconds in self._timeouts)
        headers = {"Accept-Encoding": "identity", "Content-Type": MEDIA_TYPE, "User-Agent": "echodfkd"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            response = self._pool.request(
                method,
                self.url + path,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=connect_s, read=read_s),
                retries=False,
                redirect=False,  # which would take the token along
                preload_content=False,
                decode_content=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise self._not_reached(error) from error
        try:
            data = self._read(response, most if response.status == 200 else MAX_TEXT_BYTES, until)
        except RetryableError:
            response.close()  # it was not read to its end
            raise
        finally:
            response.release_conn()
        if response.status == 200:
            return data
        raise self._refused(response, data)

    def _read(self, response: urllib3.BaseHTTPResponse, most: int, until: float) -> bytes:
        """Read the body in pieces; its size and time are bounded independently of its headers."""
        length = response.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > 18 or int(length) > most:
            raise RetryableError(f"its answer would have {length[:40]!r} bytes, expected at most {most}")
        pieces, size = [], 0
        try:
            while piece := response.read1(PIECE):
                pieces.append(piece)
                size += len(piece)
                if size > most:
                    raise RetryableError(f"its answer has more than {most} bytes")
                if clock.now() > until:
                    raise RetryableError(f"its answer was still coming after {size} bytes")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise RetryableError(f"its answer broke off after {size} bytes ({type(error).__name__})") from error
        return b"".join(pieces)

    def _not_reached(self, error: urllib3.exceptions.HTTPError) -> Exception:
        """The error of a request that got no answer."""
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return InputError(
                f"teacher.remote.url: the certificate of {self.url} is not trusted: {one_line(error)}; name the file"
                " that vouches for it in teacher.remote.ca_file"
            )
        return RetryableError(f"it was not reached ({type(error).__name__}: {one_line(error)[:200]})")

    def _refused(self, response: urllib3.BaseHTTPResponse, data: bytes) -> Exception:
        """The error of an answer that is not 200."""
        sentence = self._sentence(data)
        if response.status in TRANSIENT:
            return RetryableError(
                f"it answered {response.status}: {sentence}", _pause(response.headers.get("Retry-After", ""))
            )
        if response.status in (401, 403):
            how = "is another one" if self._token else "is missing"
            return InputError(
                f"teacher.remote.url: {self.url} wants its token, and ours {how}"
                " (teacher.remote.token_file, or the environment)"
            )
        return InputError(f"teacher.remote.url: {self.url} answered {response.status}: {sentence}")

    def _sentence(self, data: bytes) -> str:
        """The sentence in a refusal, made fit to be shown. A service may repeat our token to us."""
        try:
            text = str(parse_json_object(data, "it").get("error", ""))
        except InputError:
            text = ""
        text = text.replace(self._token, HIDDEN) if self._token else text
        return plain_sentence(text)[:300] or "no reason was given"


def _pause(retry_after: str) -> float:
    """Seconds of a Retry-After header, a number or a date; 0 if it is neither."""
    if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 10:
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - clock.now())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _trust(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError too
        why = error.strerror or one_line(error)
        raise InputError(f"teacher.remote.ca_file: {ca_file} cannot be read as PEM certificates: {why}") from error
