"""What the tests of generators in whole runs share."""

from __future__ import annotations

import psutil


def generator_processes() -> list[psutil.Process]:
    """The actors of generators among the children of this process."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if "GeneratorActor" in " ".join(process.cmdline())]
