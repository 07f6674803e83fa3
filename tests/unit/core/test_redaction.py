"""Secrets stay out of sentences, dumps and pages, wherever they came in."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echodfkd.config.file import config_to_yaml, load_config
from echodfkd.config.identity import config_hash
from echodfkd.core.errors import ClipError, ConfigError, InputError, RunError
from echodfkd.core.redaction import redact, redact_values

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@bucket/runs", "s3://***@bucket/runs"),
        ("https://user:pw@host:9000/x?y=1", "https://***@host:9000/x?y=1"),
        ("sftp://user@host/x", "sftp://***@host/x"),
        (f"https://host/x?token={SECRET}&part=2", "https://host/x?token=***&part=2"),
        (f"https://b.s3.aws/x?X-Amz-Credential=AB&X-Amz-Signature={SECRET}", "https://b.s3.aws/x?X-Amz-Credential=***&X-Amz-Signature=***"),
        (f"az://box/x?sv=1&sig={SECRET}", "az://box/x?sv=1&sig=***"),
        ("the key AKIAIOSFODNN7EXAMPLE is void", "the key *** is void"),
        (f"aws_secret_access_key = {SECRET}", "aws_secret_access_key = ***"),
        (f'{{"api_key": "{SECRET}"}}', '{"api_key": "***"}'),
        ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
        ("train.steps: got 0, must be at least 1", "train.steps: got 0, must be at least 1"),
        ("/data/EchoNet-Dynamic/Videos/0X1A.avi has 3 frames", "/data/EchoNet-Dynamic/Videos/0X1A.avi has 3 frames"),
    ],
)  # fmt: skip
def test_what_is_hidden_and_what_is_not(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(redact(text)) == shown


def test_values_of_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "plainlookingword")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another-plain-one")
    monkeypatch.setenv("SOME_TOKEN_FILE", "/run/secrets/token")
    monkeypatch.setenv("CODES_TOKENS", "true")
    text = redact("got plainlookingword and another-plain-one from /run/secrets/token, which is true")
    assert text == "got *** and *** from /run/secrets/token, which is true"


@pytest.mark.parametrize("kind", [ConfigError, InputError, ClipError, RunError])
def test_errors_are_one_printable_line_without_secrets(kind: type[Exception]) -> None:
    error = kind(f"s3://a:{SECRET}@b/x\n  cannot\tbe \x1b[31mread\0: " + "x" * 9000)
    assert str(error).startswith("s3://***@b/x cannot be \\x1b[31mread\\x00: xxx")
    assert len(str(error)) == 1500
    assert str(kind(str(error))) == str(error)  # what crosses processes is made again from its text


@given(st.text(max_size=200))
def test_any_text_makes_a_printable_error(text: str) -> None:
    assert str(InputError(text)).isprintable()


def test_a_config_is_dumped_without_secrets_and_keeps_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        f"storage: s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@bucket/runs\nstudents: {{a: {{}}}}\n"
        f"source: {{kind: recorded, path: 'https://u:{SECRET}@host/set?token={SECRET}'}}\n"
    )
    config = load_config(str(path))
    assert SECRET in config.storage  # the run itself has it
    dumped = config_to_yaml(config)
    assert SECRET not in dumped
    assert "s3://***@bucket/runs" in dumped
    changed = load_config(str(path), [f"source.path=https://u:{SECRET[::-1]}@host/set?token=x"])
    assert config_hash(config) == config_hash(changed)


def test_plain_values_keep_their_shape() -> None:
    assert redact_values({"a": ["https://u:p@h", 1], "b": {"c": None}}) == {"a": ["https://***@h", 1], "b": {"c": None}}
