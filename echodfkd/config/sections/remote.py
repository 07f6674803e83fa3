"""Options of a teacher that stays with its owner: ``teacher.remote`` (the run's side) and ``serve`` (the owner's side).

How the two fit together: docs/how-to/remote-teacher.md.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from echodfkd.config.sections.option import DAY_S, option

TOKEN_VARIABLE = "ECHODFKD_TEACHER_TOKEN"  # noqa: S105 the name of a variable, not a token
"""Environment variable that holds the token if no file is named, on both sides."""


@dataclass(frozen=True)
class RemoteConfig:
    """A service that teaches, as each teacher actor asks it (kind: remote)."""

    url: str = option("", address=True)
    """Address of the service, e.g. https://teacher.example.org:8443; a path before ``/v1`` may follow."""
    token_file: str = option("", path="input")
    """File that holds the token, on every node that teaches; empty takes ECHODFKD_TEACHER_TOKEN, if set."""
    ca_file: str = option("", path="input")
    """PEM file of certificates that vouch for the service; empty takes those that the system trusts."""
    allow_plain_http: bool = False
    """Send frames and token unencrypted to another machine: only inside of a network that no one else reads."""
    requests_in_flight: int = option(2, least=1, ceiling=64)
    """Requests that one actor has under way at the same time."""
    frames_per_request: int = option(0, least=0, ceiling=1 << 20)
    """Most frames in one request, in whole clips; 0: as many as the service takes."""
    connect_timeout_s: float = option(5.0, above=0, ceiling=3600)
    """Longest wait for a connection."""
    read_timeout_s: float = option(60.0, above=0, ceiling=3600)
    """Longest silence of the service within one request."""
    deadline_s: float = option(120.0, above=0, ceiling=DAY_S)
    """Requests that fail are sent again for so long, all those of one block of clips together; then the run ends."""


@dataclass(frozen=True)
class ServeConfig:
    """The service that a teacher's owner runs (echodfkd serve-teacher): masks of ``teacher``, over HTTP."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but the loopback needs a token."""
    port: int = option(0, least=0, most=65535)
    """0: this config is not one of a service."""
    token_file: str = option("", path="input")
    """File that holds the token which requests must carry; empty takes ECHODFKD_TEACHER_TOKEN, if set."""
    certificate_file: str = option("", path="input")
    """PEM file for HTTPS, with the chain; empty serves plain HTTP."""
    key_file: str = option("", path="input")
    """Its private key."""
    max_body_mb: int = option(64, least=1, most=1024)
    """Largest request, in MiB, on the wire and decompressed: a larger one is refused before it is read or decompressed.
    A replica holds up to queue x (2 + 3 x classes) x max_body_mb beside its teacher."""
    max_frames: int = option(1024, least=1, most=1 << 20)
    """Most frames in one request."""
    max_side: int = option(1024, least=1, most=4096)
    """Largest height and width of a frame, in pixels."""
    queue: int = option(8, least=1, most=1024)
    """Requests that one replica holds; others are told to come back later. It works on them in turn, a part of each. An
    address that holds one already does not get the last quarter of the places."""
    body_timeout_s: float = option(60.0, above=0, ceiling=3600)
    """A request whose body has not arrived after so long is given up."""


def is_loopback(host: str) -> bool:
    """Whether a host can only be this machine, as it is written: no name is looked up, whose answer could change."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
