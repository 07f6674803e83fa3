"""Print a completion script for a shell: echodfkd completion bash.

bash: eval "$(echodfkd completion bash)"    zsh: eval "$(echodfkd completion zsh)"    Put the line into ~/.bashrc or
~/.zshrc. It completes commands, their arguments, options of a run, and files.
"""

from __future__ import annotations

import argparse
import sys

from echodfkd.core.terminal import print_lines
from echodfkd.runtime.command import ArgumentParser


def main(arguments: list[str] | None = None) -> int:
    """Parse and print the script."""
    from echodfkd.runtime.completion import completion_script

    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shell", choices=["bash", "zsh"])
    print_lines(completion_script(parser.parse_args(arguments).shell).split("\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
