"""The docs hold: every command in them parses, every YAML example is a config, every link leads somewhere."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.core.errors import EchoDFKDError
from echodfkd.runtime.command import ArgumentParser

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("cluster/*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
STUDENT = {field.name for field in fields(StudentConfig)}
PLACEHOLDERS = {"FILE", "FOLDER", "RUN", "NAME", "OUT", "DIR"}


class Parsed(Exception):  # noqa: N818 - not an error: how far a command's own parser is followed
    """Carries what a job's parser made of its arguments."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, text in FENCE.findall(page.read_text()):
        if language in languages:
            yield text


def commands() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every shell command in a code block, and of every inline `python ...` or `echodfkd ...`."""
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # commands of versions that were
            continue
        name = str(page.relative_to(ROOT))
        lines = [line for text in blocks(page, "", "bash", "sh") for line in text.replace("\\\n", " ").splitlines()]
        prose = FENCE.sub("", page.read_text())
        lines += re.findall(r"`((?:python|make|echodfkd) [^`]+)`", prose.replace("\n", " "))
        for line in lines:
            if not re.match(r"\s*([A-Z_]+=\S+ )*(\.venv/bin/)?(python|make|ray|echodfkd) ", line):
                continue
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # a drawing
                continue
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if "--" in words and words[0] == "ray":
                words = words[words.index("--") + 1 :]
            if words:
                yield name, words


def is_ours(words: list[str]) -> bool:
    return words[0].removeprefix(".venv/bin/") in ("python", "echodfkd") or words[0] == "make"


OURS = list(dict.fromkeys((page, *words) for page, words in commands() if is_ours(words)))


def test_commands_are_found() -> None:
    assert len(OURS) > 30


@pytest.mark.parametrize("command", OURS, ids=lambda command: " ".join(command)[:120])
def test_a_command_parses(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its script exists, its arguments parse, its config loads with its overrides."""
    _, program, *arguments = command
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(word for word in arguments if "=" not in word) <= set(targets)
        return
    if program.endswith("echodfkd"):
        if arguments[0] in ("COMMAND", "--help", "--version"):
            return
        arguments[0] = f"jobs/{arguments[0].replace('-', '_')}.py"
        if len(arguments) == 1:  # prose that names the command
            assert (ROOT / arguments[0]).is_file()
            return
    if arguments[0] == "-m" and arguments[1] == "pytest":
        files = [word for word in arguments[2:] if word.startswith("tests/")]
        assert not [file for file in files if not (ROOT / file).exists()]
        return
    module = arguments[1] if arguments[0] == "-m" else arguments[0].removesuffix(".py").replace("/", ".")
    rest = arguments[2:] if arguments[0] == "-m" else arguments[1:]
    if arguments[0] == "-m" and (ROOT / module.replace(".", "/") / "__init__.py").exists():
        module += ".__main__"
    assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
    if "ArgumentParser" not in source(module) and "run_job" not in source(module):
        return
    if any(re.search(r"\$\w|^[A-Z]+$|\.\.\.", word) for word in rest if "=" not in word) and not parses_anyway(rest):
        return
    found = parse(module, rest, monkeypatch)
    if getattr(found, "config", None) or getattr(found, "overrides", None):
        check_config(found)


def source(module: str) -> str:
    return (ROOT / (module.replace(".", "/") + ".py")).read_text()


def parses_anyway(rest: list[str]) -> bool:
    """Placeholders in capitals stand for a user's files; only those we know do not stop the check."""
    return "..." not in rest and all(word in PLACEHOLDERS for word in rest if re.fullmatch(r"[A-Z]+", word))


def parse(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Follow a command until its own parser has taken its arguments."""
    for parser in (argparse.ArgumentParser, ArgumentParser):

        def stop(self: Any, args: Any = None, namespace: Any = None, real: Any = parser.parse_args) -> Any:
            raise Parsed(real(self, args, namespace))

        monkeypatch.setattr(parser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    before = dict(os.environ)
    try:
        loaded = importlib.import_module(module)
        if hasattr(loaded, "main"):
            loaded.main()
        else:
            other = {"list": ("", loaded.show)} if hasattr(loaded, "show") else {}
            loaded.run_job(loaded.work, description=loaded.__doc__, other_work=other)
    except Parsed as parsed:
        return parsed.arguments
    except SystemExit as ended:  # --help
        if ended.code:
            raise
        return argparse.Namespace()
    finally:
        os.environ.clear()
        os.environ.update(before)
    raise AssertionError(f"{module} has no parser")


def check_config(found: argparse.Namespace) -> None:
    """The config and its overrides are accepted; a user's files need not exist."""
    if found.config in PLACEHOLDERS:
        return
    assert found.config is None or (ROOT / found.config).is_file(), found.config
    overrides = [word for word in getattr(found, "overrides", []) if word not in PLACEHOLDERS]
    try:
        load_config(str(ROOT / found.config) if found.config else None, overrides)
    except EchoDFKDError as error:
        if not re.search("no file|cannot be read|no published checkpoint|students: empty", str(error)):
            raise


def test_every_job_is_listed() -> None:
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()
    assert not [
        job.name for job in (ROOT / "jobs").glob("*.py") if f"`echodfkd {job.stem.replace('_', '-')}" not in text
    ]


def python_blocks() -> list[tuple[str, str]]:
    return [(str(page.relative_to(ROOT)), text) for page in PAGES for text in blocks(page, "python")]


@pytest.mark.parametrize(("page", "text"), python_blocks(), ids=lambda value: value.split("\n")[0][:60])
def test_a_python_example_compiles_and_ours_runs(page: str, text: str) -> None:
    """Examples on others' libraries are only compiled; those of docs/reference/python.md run."""
    program = compile(text, page, "exec")
    if page == "docs/reference/python.md":
        exec(program, {})


def yaml_blocks() -> list[tuple[str, str]]:
    return [(str(page.relative_to(ROOT)), text) for page in PAGES for text in blocks(page, "yaml")]


@pytest.mark.parametrize(("page", "text"), yaml_blocks(), ids=lambda value: value.split("\n")[0][:60])
def test_an_example_names_options_that_exist(page: str, text: str) -> None:
    values = yaml.safe_load(text.replace("...,", ""))
    assert isinstance(values, dict), page
    known = {**asdict(RunConfig()), "students": {}}
    for key, value in values.items():
        assert key in known or key in STUDENT, f"{page}: {key}"
        if isinstance(value, dict) and known.get(key) and key not in STUDENT:  # else: one student's entry, by itself
            assert set(value) <= set(known[key]), f"{page}: {key}.{set(value) - set(known[key])}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.relative_to(ROOT)}: {target}"
        if anchor and file.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", FENCE.sub("", file.read_text()), re.MULTILINE)
            slugs = [re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower().replace("`", ""))) for title in titles]
            assert anchor in slugs, f"{page.relative_to(ROOT)}: {target}"
