"""Checks of remote teachers and of `serve`."""

from __future__ import annotations

import re
import urllib.parse

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.remote import RemoteConfig, is_loopback
from echodfkd.config.sections.teacher import BY_CLIP, TeacherConfig, TeacherModelConfig
from echodfkd.core.errors import ConfigError


def check_remotes(where: str, teacher: TeacherConfig, *, no_progress_s: float) -> None:
    """Refuse remote teachers that cannot work, or whose waiting would be taken for a hang. Raises `ConfigError`.

    Args:
        where: the teacher's option, e.g. teacher.
        teacher: its value.
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
            f" https, or {option}.allow_plain_http=true on a network that no one else reads"
        )


def check_serve(config: RunConfig) -> None:
    """Refuse a service that cannot work. Raises `ConfigError`."""
    serve, teacher = config.serve, config.teacher
    if not serve.port:
        return
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", serve.host):
        raise ConfigError(f"serve.host: got {serve.host!r}, expected a name or an address to listen on, e.g. 127.0.0.1")
    if bool(serve.certificate_file) != bool(serve.key_file):
        raise ConfigError("serve: certificate_file and key_file belong together, only one of them is named")
    for option, kind in (
        ("teacher", teacher.kind),
        *((f"teacher.members.{name}", member.kind) for name, member in teacher.members.items()),
    ):
        if kind in ("remote", *BY_CLIP):
            why = "ask that service itself" if kind == "remote" else "its masks are found by clip, not by pixels"
            raise ConfigError(f"{option}.kind: got {kind!r}, which cannot be served: {why}")
    if teacher.cache:
        raise ConfigError(
            "teacher.cache: has no use in a service, which is not told which clip it sees; set it in runs"
        )
