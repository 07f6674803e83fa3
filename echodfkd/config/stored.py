"""The config in a run folder. A stranger may have written it: it is read, and never obeyed as the user's own is.

Only values that name nothing outside of it count: no path, no address, nothing that is downloaded or that runs code
(`option.Declaration.reaches_out`). What a command needs of those, its user names in the command.
"""

from __future__ import annotations

from typing import Any

from echodfkd.config.file import config_from_dict
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.option import elements, replace_options, walk
from echodfkd.config.sections.student import StudentConfig
from echodfkd.core.errors import InputError
from echodfkd.storage.files import RunStorage
from echodfkd.storage.untrusted import MAX_YAML_BYTES, parse_yaml

CONFIG = "config.yaml"


def stored_values(storage: RunStorage) -> dict[str, Any]:
    """The plain values of a run folder's config.yaml. Raises `InputError`."""
    where = f"{storage.root}/{CONFIG}"
    try:
        values = parse_yaml(storage.read(CONFIG, MAX_YAML_BYTES), where)
    except FileNotFoundError as error:
        raise InputError(f"{storage.root} is not a run folder: it holds no {CONFIG}") from error
    if not isinstance(values, dict):
        raise InputError(f"{where} must hold `key: value` lines, got a {type(values).__name__}")
    return values


def stored_config(storage: RunStorage) -> RunConfig:
    """A run folder's config, for its numbers and names. Raises `InputError`, and `ConfigError` for one of no run."""
    return config_from_dict(stored_values(storage))


def stored_students(storage: RunStorage) -> dict[str, StudentConfig]:
    """The students of a run folder, without the paths that they started from. Raises as `stored_config`."""
    return {
        name: replace_options(student, lambda declared, value: "" if declared.reaches_out(value) else value)
        for name, student in stored_config(storage).students.items()
    }


def check_harmless(section: Any, name: str, *, where: str, remedy: str) -> None:
    """Refuse a section of a stranger's config that reaches out.

    Args:
        section: it.
        name: its own option name.
        where: the file that it comes from.
        remedy: how the user allows it, as the end of the sentence.

    Raises:
        InputError: names the option and its value.
    """
    for option, declared, values in walk(section, name):
        for own, value in elements(option, values):
            if declared.reaches_out(value):
                raise InputError(
                    f"{where} sets {own} to {value!r}, and a run folder may be a stranger's: no path, address or"
                    f" download in it is used; {remedy}"
                )
