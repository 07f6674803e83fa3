"""Hide secrets in sentences, log lines and config dumps.

Recognised are user and password of a URL, credential-like parameters of a URL, AWS access keys, bearer tokens, and the
values of environment variables that are named like a secret; a secret of any other form is not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

_SECRET_WORDS = "token|secret|passw|credential|signature|api_?key|access_?key|private_?key|session_?key"  # noqa: S105 names of secrets, none itself
_USER = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)(?:[^/?#\s@]*|[^/:\s@]+:[^\s@]*)@")
"""User and password before the host; a password after a colon may hold slashes, as AWS secret keys do."""
_PARAMETER = re.compile(rf"([?&;#][^=&;#\s]*(?:{_SECRET_WORDS}|sig)[^=&;#\s]*=)[^&;#\s'\"]+", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"\b([\w.-]*(?:{_SECRET_WORDS})[\w.-]*[\"']?\s*[=:]\s*[\"']?)(?!\*\*\*)[^\s,;\"'&]{{6,}}", re.IGNORECASE
)
_AWS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
_BEARER = re.compile(r"\b(Bearer\s+)(?!\*\*\*)[^\s,;\"']{8,}", re.IGNORECASE)
_ENVIRONMENT = re.compile(_SECRET_WORDS, re.IGNORECASE)
_SHORTEST = 8
"""Shorter values of the environment are words that stand in sentences for other reasons."""


def redact(text: str) -> str:
    """The text with every secret that is recognised replaced by `HIDDEN`. Applying it twice changes nothing more."""
    if "://" in text:
        text = _PARAMETER.sub(rf"\g<1>{HIDDEN}", _USER.sub(rf"\g<1>{HIDDEN}@", text))
    text = _BEARER.sub(rf"\g<1>{HIDDEN}", _AWS_KEY.sub(HIDDEN, text))
    text = _ASSIGNED.sub(rf"\g<1>{HIDDEN}", text)
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and value in text and _ENVIRONMENT.search(name) and not os.path.isabs(value):
            text = text.replace(value, HIDDEN)
    return text


def redact_values(values: Any) -> Any:
    """Plain values (dictionaries, lists, strings, numbers) with every string redacted."""
    if isinstance(values, str):
        return redact(values)
    if isinstance(values, Mapping):
        return {key: redact_values(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(redact_values(value) for value in values)
    return values
