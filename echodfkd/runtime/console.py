"""The command `echodfkd COMMAND`: it runs the file of jobs/ that has the command's name, as python would."""

from __future__ import annotations

import difflib
import os
import runpy
import signal
import sys

from echodfkd import __version__
from echodfkd.core.errors import plain_sentence
from echodfkd.core.shipped import command_summary, commands
from echodfkd.core.terminal import print_line, print_lines

USAGE = """usage: echodfkd COMMAND [arguments]

EchoDFKD distils small networks that segment the left ventricle in echocardiogram videos.

commands:"""
MORE = """
  echodfkd COMMAND --help          the arguments of a command
  echodfkd distill --help SECTION  options of a run with their defaults, e.g. train, or train.steps
  echodfkd --version               {version}"""


def main() -> int:
    """Run the command that the first argument names; 2 if there is none of that name."""
    try:
        return _run()
    except BrokenPipeError:  # the reader has seen enough: echodfkd --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run() -> int:
    found, words = commands(), sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(map(len, found))
        print_lines(USAGE.split("\n"))
        print_lines(f"  {name:{width}}  {command_summary(path)}" for name, path in found.items())
        print_lines(MORE.format(version=__version__).split("\n"))
        return 0 if words else 2
    if words[0] == "--version":
        print_line(__version__)
        return 0
    name = words[0].replace("_", "-")
    if name not in found:
        close = difflib.get_close_matches(name, found, n=2)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        print_line(f"error: {plain_sentence(f'echodfkd has no command {words[0]!r}{hint}')}", to=sys.stderr)
        print_line("echodfkd --help lists the commands", to=sys.stderr)
        return 2
    sys.argv[1:] = words[1:]
    runpy.run_path(str(found[name]), run_name="__main__")
    return 0
