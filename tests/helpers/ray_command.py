"""Ray's command line, for tests that start clusters with it."""

import sys
from pathlib import Path


def ray_python(folder: Path) -> Path:
    """This interpreter; if its path has a space, through a link in ``folder``, whose path must have none.

    Ray starts the Ray Client server of a head and the actors of submitted jobs through a shell and does not quote
    `sys.executable`. `ray start --head` then comes up and ends again, and everything that joins it waits.
    """
    python = Path(sys.executable)
    if " " not in str(python):
        return python
    link = folder / "environment"
    if not link.is_symlink():
        link.symlink_to(sys.prefix, target_is_directory=True)
    return link / "bin" / python.name


def ray_command(folder: Path) -> list[str]:
    """The command `ray`, run by `ray_python`: the script of that name has another interpreter in its first line."""
    return [str(ray_python(folder)), "-c", "from ray.scripts.scripts import main; main()"]
