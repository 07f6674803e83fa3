"""The frame of every job: parse, print the resolved config, turn errors into one sentence."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from echodfkd.config.explained import options_help
from echodfkd.config.file import config_to_yaml, load_config
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import STOPPED, ConfigError, EchoDFKDError, InputError, plain_sentence
from echodfkd.core.redaction import redact_values
from echodfkd.core.terminal import print_bugs_plainly, print_line, print_lines
from echodfkd.runtime.cluster.environment import prepare_ray
from echodfkd.runtime.interruption import told_at_once
from echodfkd.sources.build import check_drawn_sources

Work = Callable[[RunConfig], dict[str, Any]]
"""Does a job; returns its result."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser for a file of jobs/.

    It is called by the command's name, takes options before and after other words, and names a faulty argument as an
    error sentence does: without secrets, on one line.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        path = Path(sys.argv[0])
        if path.parent.name == "jobs":
            kwargs.setdefault("prog", f"echodfkd {path.stem.replace('_', '-')}")
        super().__init__(*args, **kwargs)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As `argparse`'s, in any order; a parser of several commands keeps argparse's order."""
        if self._subparsers is not None:
            return super().parse_args(args, namespace)
        return self.parse_intermixed_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the usage and the sentence, and end with exit code 2."""
        super().error(plain_sentence(message))


class _Help(argparse.Action):
    """``--help`` prints the arguments, ``--help SECTION`` the options of a section, or one option."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        if not values:
            parser.print_help()
            parser.exit()
        try:
            print_lines(options_help(values))
        except EchoDFKDError as error:
            parser.exit(fail(error))
        parser.exit()


def run_job(
    work: Work,
    *,
    description: str,
    arguments: Sequence[str] | None = None,
    check: Callable[[RunConfig], object] = lambda config: None,
    below: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    other_work: Mapping[str, tuple[str, Work]] = MappingProxyType({}),
) -> int:
    """Parse ``--config FILE [--dry-run] [key=value ...]`` and do the work. ``below``: see `load_config`.

    ``check`` refuses a config that the job cannot use, before any work, and with --dry-run too. ``other_work`` is done
    instead if its flag is given: the flag's name, its help, and the work.

    The last line on standard output is one JSON object. Exit codes: 0 done, 1 the run failed, 2 the command, the
    config or an input is wrong, `STOPPED`, 130 interrupted.
    """
    print_bugs_plainly()
    parser = _job_parser(description)
    for flag, (words, other) in other_work.items():
        parser.add_argument(f"--{flag}", dest="work", action="store_const", const=other, default=work, help=words)
    parsed = parser.parse_args(arguments)
    try:
        config = load_config(parsed.config, parsed.overrides, below=below)
        check(config)
        check_drawn_sources(config)
    except EchoDFKDError as error:
        return fail(error)
    if parsed.dry_run:
        print_lines(config_to_yaml(config).rstrip("\n").split("\n"))
        return _print_findings(config)
    prepare_ray(config.ray.address)
    return run_guarded(lambda: getattr(parsed, "work", work)(config))


def _job_parser(description: str) -> ArgumentParser:
    named = ", ".join(field.name for field in dataclasses.fields(RunConfig))
    parser = ArgumentParser(
        description=description,
        epilog=f"Options and sections for --help SECTION: {named}.",
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-h", "--help", action=_Help, nargs="?", metavar="SECTION", help="this text, or options: --help train.steps"
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of the run; `echodfkd configs` has some")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and stop")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. train.steps=100")
    return parser


def _print_findings(config: RunConfig) -> int:
    """Print notes on the data sets, and time and cost by the pilot's rates, as YAML comments.

    Returns an exit code: not 0 if a data set or the pilot cannot be used.
    """
    from echodfkd.runtime.stream.builders import source_notes

    try:
        lines = [f"note: {note}" for note in source_notes(config)]
        if config.sizing.pilot:
            from echodfkd.runtime.cluster.sizing import estimate_run

            lines += estimate_run(config).lines()
        print_lines(f"# {line}" for line in lines)
    except (EchoDFKDError, OSError) as error:
        return fail(error)
    return 0


def run_guarded(work: Callable[[], dict[str, Any]]) -> int:
    """Do the work, print its result as the last line, and print an explained error as one sentence."""
    print_bugs_plainly()
    try:
        with told_at_once():
            result = work()
    except (EchoDFKDError, OSError) as error:
        return fail(error)
    except KeyboardInterrupt:
        print_line("interrupted; the same command goes on from all that was saved", to=sys.stderr)
        return 130
    print_line(json.dumps(redact_values(result)))
    if result.get("stopped"):
        return STOPPED
    return 0 if result.get("ok", True) else 1


def fail(error: Exception) -> int:
    """Print one sentence on standard error: an explained error's own, or the system's with the file's name.

    Returns the exit code: 2 if the config or an input is wrong, which no retry cures, else 1.
    """
    text = str(error)
    if isinstance(error, OSError):
        named = f"{error.filename}: " if error.filename is not None else ""
        lines = text.split("\n")  # an error of a Ray task has its traceback before the last line
        text = f"{named}{error.strerror or lines[-1] or type(error).__name__}"
    print_line(f"error: {plain_sentence(text)}", to=sys.stderr)
    return 2 if isinstance(error, ConfigError | InputError) else 1
