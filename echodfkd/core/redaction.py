"""Hide secrets in sentences, log lines and stored values.

A secret is known by its place: it is the value of an environment variable that is named like a secret, the user and
password of a URL, a credential of a header, a connection string or a signed URL, or it stands after a name like
`password`. Keys of well-known services are known by their form as well. If a secret's end is not certain, more is
hidden, never less.
"""

from __future__ import annotations

import functools
import json
import os
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_SHORTEST, _SHORTEST_WORD = 8, 12
"""Shorter values of the environment, and shorter plain words and numbers, stand in sentences for other reasons."""

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET = re.compile(
    r"(?:token|secrets?|passw(?:or)?ds?|passphrases?|credentials?|signature|authorization|cookie|connectionstring|connstr"
    r"|(?:api|access|secret|private|account)key|^pwd)$"
)
"""Ends of words that name a secret: `password`, `PGPASSWORD`, `authtoken`."""
_OF_KEYS = frozenset("api access secret private account storage session shared master signing encryption auth".split())
_ABOUT = frozenset(
    "file files path dir folder name names mode type url uri host sock limit count ttl enabled version algorithm store"
    " endpoint seconds expiration length".split()
)
"""Last words of names that tell of a secret and hold none: `token_file`."""
_FURTHER = frozenset("id ids value text base old new primary secondary prod dev test live".split())
"""Last words that may follow the secret's own: `AWSAccessKeyId`."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20})://")
_USER = re.compile(r"(?:\[[^\]\s]*\]|[^/?#@\s:\[])*:")
_PORT = re.compile(r"\d{1,5}(?![^/?#\s,;:.)\]}>'\"|])")
_BUCKETS = frozenset("s3 s3a s3n gs gcs az abfs abfss wasb wasbs oss r2".split())
"""Schemes whose URLs have no port: digits after a colon begin a password."""
_PARAMETER = re.compile(r"(?<=[?&#;])([^=&#;\s\"'?]{1,99})=([^&#;\s\"']+)")
_PAIR = re.compile(
    r"(?<![?&#\w.-])((?:(?:api|access|secret|private|account|storage) )*[A-Za-z_-][\w.-]{0,99})"
    r"(?:(\\*[\"'])?[ \t]*(=>?|:)[ \t]*|(\\*[\"'])[ \t]*,[ \t]*(?=b?\\*[\"']))(?=\S)(?:b(?=\\*[\"']))?",
    re.IGNORECASE,
)
_QUOTE = re.compile(r"(\\*)([\"'])")
_ARGUMENT = re.compile(r"(?<!\S)(--[\w-]{1,99}[ \t]+)([^\s-]\S*)")
_SCHEME = re.compile(r"((?:basic|bearer|token|apikey|negotiate|ntlm|sharedkey(?:lite)?)\s+)[^\s\"',]+", re.IGNORECASE)
_BEARER = re.compile(r"\b(Bearer\s+)[^\s,;\"']{8,}", re.IGNORECASE)
_FORMS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[opusr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|hf_[A-Za-z0-9]{16,}"
    r"|glpat-[\w-]{16,}|xox[a-z]-[\w-]{10,}|eyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?|sk-[\w-]{20,}|AIza[\w-]{30,})"
)
_NOTHING = frozenset(("none", "null", "true", "false", HIDDEN))


def redact(text: str) -> str:
    """The text with every secret that is recognised replaced by `HIDDEN`. Applying it twice changes nothing more."""
    for secret in _environment_secrets():
        text = text.replace(secret, HIDDEN)
    text = _FORMS.sub(HIDDEN, text)
    if "://" in text:
        text = _hide_users(text)
    text = _PARAMETER.sub(lambda m: f"{m[1]}={HIDDEN}" if m[1] == "sig" or names_secret(m[1]) else m[0], text)
    text = _ARGUMENT.sub(lambda m: f"{m[1]}{HIDDEN}" if names_secret(m[1].strip()) else m[0], text)
    return _BEARER.sub(rf"\g<1>{HIDDEN}", _hide_pairs(text))


def redact_values(values: Any, name: str = "") -> Any:
    """Plain values (dictionaries, lists, strings, numbers) with every string redacted, also because of its name."""
    if isinstance(values, str):
        return HIDDEN if values and names_secret(name) else redact(values)
    if isinstance(values, Mapping):
        return {key: redact_values(value, str(key)) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(redact_values(value, name) for value in values)
    return values


def dump_json(values: Any, *, indent: int = 1) -> bytes:
    """Plain values without secrets as a JSON file: for each one that is written for people."""
    return (json.dumps(redact_values(values), indent=indent, allow_nan=False) + "\n").encode()


@functools.lru_cache(4096)
def names_secret(name: str, *, of_environment: bool = False) -> bool:
    """Whether a secret has such a name: `db_password`, `clientSecret`, and not `token_file`.

    Variables of the environment are named more loosely: any `..._KEY` is one.
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or words[-1] in _ABOUT or name in ("PWD", "OLDPWD"):
        return False
    if of_environment and {"key", "dsn", "sas", "pat", "pwd", "pass"} & set(words):
        return True
    found = [bool(_SECRET.search(word)) or (word == "pass" and place > 0) for place, word in enumerate(words)]
    found = [
        secret or (word == "key" and bool(_OF_KEYS & set(words))) for secret, word in zip(found, words, strict=True)
    ]
    if words[-2:] == ["connection", "string"]:
        return True
    return any(found) if of_environment or words[-1] in _FURTHER else found[-1]


def _environment_secrets() -> list[str]:
    """Secrets of the environment and the forms that URLs, JSON, YAML and Python write them in, longest first."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and names_secret(name, of_environment=True) and not _is_ordinary(value):
            for part in {value, *(line for line in value.splitlines() if len(line) >= 16)}:
                found |= {part, urllib.parse.quote(part), urllib.parse.quote(part, safe="")}
                found |= {json.dumps(part)[1:-1], repr(part)[1:-1], part.replace("'", "''")}
    return sorted(found, key=len, reverse=True)


@functools.lru_cache(256)
def _is_ordinary(value: str) -> bool:
    """Whether a value is a word, a number or a path, which stand in sentences for other reasons."""
    if re.fullmatch(r"[a-z]+|[A-Z]+|[A-Z][a-z]+|[\d.:-]+", value):
        return len(value) < _SHORTEST_WORD
    return bool(re.fullmatch(r"(?:~|\.{0,2})/.*\.\w{1,8}", value)) or os.path.exists(value)


def _hide_users(text: str) -> str:
    """Replace user and password of every URL: all before the last @ of the authority."""
    parts, done = [], 0
    starts = [*_URL.finditer(text)]
    for place, match in enumerate(starts):
        if match.start() < done:
            continue
        stop = starts[place + 1].start() if place + 1 < len(starts) else len(text)
        newline = text.find("\n", match.end(), stop)
        stop = stop if newline < 0 else newline
        quote = _quote_before(text, match.start())
        if quote:
            stop = min(stop, _literal_end(text, match.end(), quote))
        length = _user_length(text[match.end() : stop], match[1].lower(), quoted=bool(quote) or match.start() == 0)
        if length:
            parts += [text[done : match.end()], HIDDEN]
            done = match.end() + length
    return "".join([*parts, text[done:]])


def _user_length(rest: str, scheme: str, *, quoted: bool) -> int:
    """Characters of user and password at the start of ``rest``, which begins after ``://`` and ends with the line.

    A password may hold any character, escaped or not: it ends at the last @ of the line.
    """
    begins = _USER.match(rest)
    if begins is None:  # a user without a password
        authority = re.split(r"[/?#]" if quoted else r"[/?#\s]", rest, maxsplit=1)[0]
        return max(0, authority.rfind("@"))
    password = rest[begins.end() :]
    if not password.strip() or (password[0].isspace() and not quoted):
        return 0
    if scheme not in _BUCKETS and _PORT.match(password):
        return 0
    if "@" in rest:
        return rest.rfind("@")
    return len(rest.split(maxsplit=1)[0]) if scheme in _BUCKETS else 0  # cut off before the @


def _hide_pairs(text: str) -> str:
    """Replace the values after names of secrets: ``password=...``, ``"token": "..."``, ``Authorization: ...``."""
    parts, done = [], 0
    for match in _PAIR.finditer(text):
        if match.start() < done or not names_secret(match[1]):
            continue
        start, end = _value_span(text, match)
        value = text[start:end]
        kept = _SCHEME.match(value) if match[1].lower().endswith("authorization") else None
        if value.lower() in _NOTHING or not value:
            continue
        if kept and start == match.end():  # in a sentence that may go on
            end = start + kept.end()
        parts += [text[done:start], kept[1] if kept else "", HIDDEN]
        done = end
    return "".join([*parts, text[done:]])


def _value_span(text: str, match: re.Match[str]) -> tuple[int, int]:
    """Start and end of the value after a name, without its quotes."""
    start, around = match.end(), _quote_before(text, match.start())
    if opening := _QUOTE.match(text, start):
        return opening.end(), _literal_end(text, opening.end(), opening[0])
    if around and not match[2]:  # the whole pair stands in quotes
        return start, _literal_end(text, start, around)
    line_end = text.find("\n", start)
    line_end = len(text) if line_end < 0 else line_end
    if text[start] in "[{":
        return start, _bracket_end(text, start)
    if match[3] != ":":
        semicolon = text.find(";", start, line_end)
        if semicolon >= 0:
            return start, semicolon
        word = text[start:line_end].split(maxsplit=1)[0]
        return start, start + len(word.rstrip("\"',)]}.") or word)
    before = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
    if not before.strip(" \t-\"'"):
        deeper = re.compile(rf"(?:\n {{{len(before) + 1},}}[^\n]*)*")
        return start, deeper.match(text, line_end).end()  # type: ignore[union-attr]
    if match[1].lower().endswith(("authorization", "cookie")):
        return start, line_end
    return start, start + len(re.split(r",\s|[}\"']", text[start:line_end], maxsplit=1)[0])


def _quote_before(text: str, place: int) -> str:
    """The quote that stands directly before a place, with its backslashes; empty if there is none."""
    found = re.search(r"\\*[\"']$", text[max(0, place - 9) : place])
    return found[0] if found else ""


def _literal_end(text: str, start: int, quote: str) -> int:
    """The place of the quote that closes a literal of JSON, YAML or Python; the line's end if there is none."""
    place = start
    while found := _QUOTE.search(text, place):
        backslashes = len(found[1]) if found.start() >= start else 0
        escaped = backslashes % 2 if len(quote) == 1 else backslashes != len(quote) - 1
        doubled = quote == "'" and text[found.end() : found.end() + 1] == "'"
        if found[2] == quote[-1] and not escaped and not doubled:
            return found.end() - len(quote)
        place = found.end() + doubled
    newline = text.find("\n", start)
    return len(text) if newline < 0 else newline


def _bracket_end(text: str, start: int) -> int:
    """The place after the bracket that closes the one at ``start``; the text's end if there is none."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] in "[{") - (text[place] in "]}")
        if not depth:
            return place + 1
    return len(text)
