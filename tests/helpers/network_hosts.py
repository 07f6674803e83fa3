"""Commands in network namespaces that stand for hosts."""

import subprocess
import sys


def sh(*command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True, stdout=sys.stderr)


def inside(host: str, *command: str) -> list[str]:
    """A command in a host's network."""
    return ["ip", "netns", "exec", host, *command]
