"""A teacher that stays with its owner: what the run's side is told of the service (``teacher.remote``), what the
owner's side is told (``serve``), and which of it cannot work. How the two fit together: docs/teachers.md.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from echodfkd.errors import ConfigError

if TYPE_CHECKING:
    from echodfkd.config import RunConfig
    from echodfkd.config_teachers import TeacherConfig, TeacherModelConfig

TOKEN_VARIABLE = "ECHODFKD_TEACHER_TOKEN"  # noqa: S105 where a token is looked for, none itself
"""Environment variable that holds the token where no file is named, on both sides."""


@dataclass(frozen=True)
class RemoteConfig:
    """A service that teaches, as each teacher actor asks it (kind: remote)."""

    url: str = ""
    """Where it listens, e.g. https://teacher.example.org:8443; a path before ``/v1`` may follow."""
    token_file: str = ""
    """File that holds the token, on every node that teaches; empty takes ECHODFKD_TEACHER_TOKEN, if set."""
    ca_file: str = ""
    """PEM file of certificates that vouch for the service; empty takes those that the system trusts."""
    allow_plain_http: bool = False
    """Send frames and token unencrypted to another machine: only inside of a network that nobody else reads."""
    requests_in_flight: int = 2
    """Requests that one actor has under way at the same time."""
    frames_per_request: int = 0
    """Most frames in one request, in whole clips; 0: as many as the service takes."""
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 60.0
    """Longest silence of the service within one request."""
    deadline_s: float = 120.0
    """Requests that fail are sent again for so long, all those of one block of clips together; then the run ends."""


@dataclass(frozen=True)
class ServeConfig:
    """The service that a teacher's owner runs (jobs/serve_teacher.py): masks of ``teacher``, over HTTP."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but the loopback needs a token."""
    port: int = 0
    """0: this config is not one of a service."""
    token_file: str = ""
    """File that holds the token which requests must carry; empty takes ECHODFKD_TEACHER_TOKEN, if set."""
    certificate_file: str = ""
    """PEM file for HTTPS, with the chain; empty serves plain HTTP."""
    key_file: str = ""
    """Its private key."""
    max_body_mb: int = 64
    """Largest request, in MiB: a larger one is refused before it is read."""
    max_frames: int = 4096
    """Most frames in one request."""
    max_side: int = 1024
    """Largest height and width of a frame, in pixels."""
    queue: int = 8
    """Requests that one replica holds, the one that it works on included; others are told to come back later."""
    body_timeout_s: float = 60.0
    """A request whose body has not arrived after so long is given up."""


def check_remotes(where: str, teacher: TeacherConfig, *, no_progress_s: float) -> None:
    """Refuse remote teachers that cannot work, or that a hang would be taken for. Raises `ConfigError`.

    Args:
        where: the teacher's option.
        teacher: it.
        no_progress_s: data.no_progress_timeout_s.
    """
    models: dict[str, TeacherModelConfig] = {where: teacher}
    models |= {f"{where}.members.{name}": member for name, member in teacher.members.items()}
    remotes = {option: model.remote for option, model in models.items() if model.kind == "remote"}
    for option, remote in remotes.items():
        _check_remote(f"{option}.remote", remote)
    if not remotes:
        return
    patience = sum(remote.deadline_s for remote in remotes.values())
    limits = [(f"{where}.timeout_s", teacher.timeout_s, patience)]  # also the fusing pool: it may ask all of them
    limits.append(("data.no_progress_timeout_s", no_progress_s, patience))
    if teacher.pools == "each":
        own = {f"{where}.members.{name}": member.timeout_s for name, member in teacher.members.items()}
        limits += [(f"{option}.timeout_s", own[option], remote.deadline_s) for option, remote in remotes.items()]
    for name, limit, waited in limits:
        if limit and waited >= limit:
            raise ConfigError(
                f"{next(iter(remotes))}.remote.deadline_s: got {waited:g} s (over all remote teachers), must be"
                f" below {name} ({limit:g} s), which takes an actor that waits for the service for one that hangs"
            )


def _check_remote(option: str, remote: RemoteConfig) -> None:
    example = "e.g. https://teacher.example.org:8443"
    if not remote.url:
        raise ConfigError(f"{option}.url: empty, name the service, {example}")
    try:
        parts = urllib.parse.urlsplit(remote.url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(
            f"{option}.url: got {remote.url!r}, expected http:// or https://, a host, a port and perhaps a path,"
            f" {example}; a user or a token does not belong into it"
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname or "") and not remote.allow_plain_http:
        raise ConfigError(
            f"{option}.url: got {remote.url!r}, over which anybody on the way could read frames, masks and token; use"
            f" https, or {option}.allow_plain_http=true where nobody is on the way"
        )
    if remote.requests_in_flight < 1 or remote.frames_per_request < 0:
        raise ConfigError(f"{option}: requests_in_flight must be at least 1 and frames_per_request at least 0")
    for name in ("connect_timeout_s", "read_timeout_s", "deadline_s"):
        if not getattr(remote, name) > 0:
            raise ConfigError(f"{option}.{name}: got {getattr(remote, name):g}, must be above 0")


def check_serve(config: RunConfig) -> None:
    """Refuse a service that cannot work. Raises `ConfigError`."""
    serve, teacher = config.serve, config.teacher
    if not 0 <= serve.port <= 65535:
        raise ConfigError(f"serve.port: got {serve.port}, must lie in 1 .. 65535 (0: no service)")
    if not serve.port:
        return
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", serve.host):
        raise ConfigError(f"serve.host: got {serve.host!r}, expected a name or an address to listen on, e.g. 127.0.0.1")
    if bool(serve.certificate_file) != bool(serve.key_file):
        raise ConfigError("serve: certificate_file and key_file belong together, only one of them is named")
    for name, most in (("max_body_mb", 1024), ("max_frames", 1 << 20), ("max_side", 4096), ("queue", 1024)):
        if not 1 <= getattr(serve, name) <= most:
            raise ConfigError(f"serve.{name}: got {getattr(serve, name)}, must lie in 1 .. {most}")
    if not serve.body_timeout_s > 0:
        raise ConfigError(f"serve.body_timeout_s: got {serve.body_timeout_s:g}, must be above 0")
    for option, kind in (
        ("teacher", teacher.kind),
        *((f"teacher.members.{name}", member.kind) for name, member in teacher.members.items()),
    ):
        if kind in ("remote", "recorded"):
            why = {"remote": "ask that service itself", "recorded": "its masks are found by clip, not by pixels"}[kind]
            raise ConfigError(f"{option}.kind: got {kind!r}, which cannot be served: {why}")
    if teacher.cache:
        raise ConfigError(
            "teacher.cache: has no use in a service, which is not told which clip it sees; set it in runs"
        )


def is_loopback(host: str) -> bool:
    """Whether a host can only be this machine, as it is written: no name is looked up, whose answer could change."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
