"""Random secrets in every place that redaction knows never survive, and ordinary text stays as it is."""

import base64
import datetime
import json
import urllib.parse
from collections.abc import Callable

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from echodfkd.core.redaction import HIDDEN, names_secret, redact, redact_values

KEYS = st.text("abcdefghijkLMNOPQRSTUVwxyz0123456789+/", min_size=12, max_size=44)
"""As base64 writes keys; none of them is an ordinary word of a sentence below."""
PASSWORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=40)

NAMES = ("password", "db_password", "clientSecret", "api_key", "AWS_SECRET_ACCESS_KEY", "authToken", "secret", "pwd")

PAIRS: dict[str, Callable[[str, str], str]] = {
    "json": lambda name, secret: json.dumps({"user": "me", name: secret, "n": 1}),
    "json, indented": lambda name, secret: json.dumps({name: secret, "n": 1}, indent=1),
    "json in json": lambda name, secret: json.dumps({"text": json.dumps({name: secret})}),
    "yaml": lambda name, secret: yaml.safe_dump({"user": "me", name: secret, "zone": 1}),
    "yaml, nested": lambda name, secret: yaml.safe_dump({"a": [{name: secret}, 2]}),
    "repr": lambda name, secret: repr({"user": "me", name: secret, "n": 1}),
    "repr of bytes": lambda name, secret: repr({name: secret.encode()}),
    "repr of pairs": lambda name, secret: repr([(name, secret), ("n", "1")]),
    "keyword": lambda name, secret: f"Client(user='me', {name}={secret!r}, n=1)",
    "command": lambda name, secret: repr(["tool", f"--{name}={secret}", "-v"]),
}


@pytest.mark.parametrize("form", PAIRS)
@given(secret=PASSWORDS, name=st.sampled_from(NAMES))
@example(secret='it\'s "me"', name="password")
@example(secret="back\\slash\\'", name="password")
@example(secret="a: b, c; d} e@f://g", name="secret")
@example(secret="x7", name="secret")
@settings(max_examples=25, deadline=None)
def test_values_after_the_name_of_a_secret_are_hidden(form: str, secret: str, name: str) -> None:
    text = PAIRS[form](name, secret)
    hidden = redact(text)
    for written in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]):
        assert written not in hidden.replace(HIDDEN, "")
    assert redact(hidden) == hidden


@pytest.mark.parametrize("user", ["me", "AKIDKEY", "first.last"])
@pytest.mark.parametrize("scheme", ["s3", "https", "postgresql"])
@given(secret=PASSWORDS, inside=st.sampled_from(["{}", "storage: got {!r}, allowed", "{} is gone", '{{"url": "{}"}}']))
@example(secret="p@ss", inside="{}")
@example(secret="a b@c d", inside="storage: got {!r}, allowed")
@example(secret="abc/def@gh", inside="{} is gone")
@settings(max_examples=20, deadline=None)
def test_passwords_of_urls_are_hidden(scheme: str, user: str, secret: str, inside: str) -> None:
    secret = f"x{secret}"  # digits and a slash would be a port
    secret = secret.replace('"', "").replace("'", "") if "'" in inside or '"' in inside else secret
    text = inside.format(f"{scheme}://{user}:{secret}@host/folder")
    assert secret not in redact(text)
    assert "host/folder" in redact(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:p@ss@host/x", "https://***@host/x"),
        ("s3://AK:a b@x", "s3://***@x"),
        ("storage: got 's3://AK: b@x', which is gone", "storage: got 's3://***@x', which is gone"),
        ("s3://AKEY:abc/def", "s3://***"),
        ("http://host:9000/a@b and ray://[::1]:10001", "http://host:9000/a@b and ray://[::1]:10001"),
        ("copy s3://a:b@c/d to s3://e:f@g/h", "copy s3://***@c/d to s3://***@g/h"),
        ("https://bucket/x?sig=a%2Bb&part=2", "https://bucket/x?sig=***&part=2"),
        ("secret=abc", "secret=***"),
        ("{'password': 'x'}", "{'password': '***'}"),
        ("password:\t'' and token: null", "password:\t'' and token: null"),
        ("AccountName=me;AccountKey=ab==;EndpointSuffix=x", "AccountName=me;AccountKey=***;EndpointSuffix=x"),
        ("BlobEndpoint=https://x/;SharedAccessSignature=sv=1&sig=a&se=2", "BlobEndpoint=https://x/;SharedAccessSignature=***"),
        ("Server=x;Password=a b;Port=1", "Server=x;Password=***;Port=1"),
        ("tool --password hunter2 -v", "tool --password *** -v"),
        ("password: |\n  one\n  two\nuser: me", "password: ***\nuser: me"),
        ("- token: a b, c\n- user: me", "- token: ***\n- user: me"),
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "{'Authorization': 'Basic ***'}"),
        ("got Authorization: Basic dXNlcjpwYXNz, and went on", "got Authorization: Basic ***, and went on"),
        ('Authorization: Digest username="me", response="6629"', "Authorization: ***"),
        ("[(b'authorization', b'Bearer x')]", "[(b'authorization', b'Bearer ***')]"),
    ],
)  # fmt: skip
def test_exact_places(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@given(secret=KEYS)
@settings(max_examples=40, deadline=None)
def test_forms_of_services_and_headers_are_hidden(secret: str) -> None:
    plain = "".join(c for c in secret if c.isalnum()).ljust(20, "x")
    encoded = base64.b64encode(f"me:{secret}".encode()).decode()
    escaped = urllib.parse.quote(secret, safe="")
    token = f"eyJhbGciOi.{plain}.{plain}"
    for text, gone in (
        (f"Authorization: Basic {encoded}", encoded),
        (f"authorization: Custom {secret} {plain}", secret),
        (f"DefaultEndpointsProtocol=https;AccountName=x;AccountKey={secret}==;EndpointSuffix=y", secret),
        (f"Endpoint=sb://x;SharedAccessKeyName=n;SharedAccessKey={secret}=", secret),
        (f"https://b/x?X-Amz-Signature={escaped}&X-Amz-Date=20261130T000000Z", escaped),
        (f"https://b/x?X-Amz-Security-Token={escaped}", escaped),
        *((f"the token {start}{plain} is void", plain) for start in ("ghp_", "github_pat_", "hf_", "glpat-", "xoxb-")),
        (f"cannot use {token}", token),
        (f"-----BEGIN RSA PRIVATE KEY-----\n{secret}\n-----END RSA PRIVATE KEY----- was given", secret),
    ):  # fmt: skip
        assert gone not in redact(text), text
        assert redact(redact(text)) == redact(text)


VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_KEY", "WANDB_API_KEY", "PGPASSWORD", "MYSQL_PWD", "HF_TOKEN")
VARIABLES += ("AZURE_STORAGE_CONNECTION_STRING", "DB_CREDENTIALS", "TOKEN_OF_HUB", "SENTRY_DSN")


@given(secret=KEYS, name=st.sampled_from(VARIABLES), text=st.sampled_from(["{}", "{}=1", "got '{}', no", "/a/{}/b"]))
@example(secret="/wJalrXUtnFEMI/K7MDENG", name="AWS_SECRET_ACCESS_KEY", text="secret {}")
@settings(max_examples=25, deadline=None)
def test_values_of_the_environment_are_hidden_wherever_they_stand(secret: str, name: str, text: str) -> None:
    secret = f"/{secret}0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, secret)
        for written in (secret, urllib.parse.quote(secret), urllib.parse.quote(secret, safe="")):
            assert written not in redact(text.format(written))
        assert redact_values({"a": [text.format(secret)]}) == {"a": [redact(text.format(secret))]}


def test_paths_and_words_of_the_environment_stay(tmp_path: object) -> None:
    kept = {
        "SSH_AUTH_SOCK": "/tmp/ssh-x/agent.1",
        "AWS_SHARED_CREDENTIALS_FILE": "/home/me/.aws/credentials",
        "GOOGLE_APPLICATION_CREDENTIALS": "/home/me/key.json",
        "RAY_AUTH_TOKEN_PATH": "/home/me/.ray/auth_token",
        "DEPLOY_KEY": "training",
        "SOME_TOKEN": "20261130",
        "PWD": "/home/someone/folder",
        "KEY_DIR": str(tmp_path),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in kept.items():
            patch.setenv(name, value)
        text = ", ".join(kept.values())
        assert redact(text) == text


WORDS = (
    "/data/EchoNet/Videos/0X1A.avi|runs/key-study|sha256|step 5/200|c31|12:30:59|1e-3|a@b.org|'quoted'|2026-11-30|got 0"
    "|https://host:9000/x?part=2|s3://bucket/a@b/c|ray://127.0.0.1:10001|tokenizer|password|storage: runs|monkey=3"
    "|teacher.remote.token_file: /x|keys: 4|window.fps=32"
)
WORD = st.sampled_from(WORDS.split("|"))


@given(
    words=st.lists(WORD | st.binary(min_size=32, max_size=32).map(bytes.hex) | st.dates().map(datetime.date.isoformat))
)
@settings(max_examples=60, deadline=None)
def test_ordinary_text_stays(words: list[str]) -> None:
    text = " ".join(words)
    assert redact(text) == text


def test_structured_values_are_hidden_by_their_names() -> None:
    values = {
        "password": "a b",
        "token_file": "/x",
        "list": [{"api_key": "k", "n": 1}],
        "secrets": ["a", "b"],
        "key": "f",
    }
    shown = {"password": HIDDEN, "token_file": "/x", "list": [{"api_key": HIDDEN, "n": 1}], "secrets": [HIDDEN] * 2}
    assert redact_values(values) == {**shown, "key": "f"}


@pytest.mark.parametrize("name", ["max_tokens", "compass", "bypass", "monkey", "token_study", "keyboard", "secretName"])
def test_names_that_name_no_secret(name: str) -> None:
    assert not names_secret(name)


@given(st.text(max_size=120))
@settings(max_examples=60, deadline=None)
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once) == once
