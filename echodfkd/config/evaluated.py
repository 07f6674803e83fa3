"""The options that jobs/evaluate.py takes from the run folder that it scores, below the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.option import walk
from echodfkd.config.stored import stored_config, stored_values
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.storage.files import RunStorage

SECTIONS = ("window", "evaluation", "teacher")
MOST_NAMED = 6
"""Changes that the line of `changes_of` names one by one."""


def run_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the run that ``evaluate.run`` names, as a layer below the given ones; {} if it names none.

    They are its name, seed, window, evaluation and teacher, without the options that a run's numbers do not depend on.
    The folder may be a stranger's: an option that names a file or host, or downloads something, is left out; a teacher
    that needs one is left out whole. So are a teacher, a source of cases and a judge of another kind than given.

    Raises:
        InputError: the folder holds no config.yaml.
        ConfigError: its config does not fit this version.
    """
    run = _get(given, "evaluate", "run")
    if not run or not isinstance(run, str):
        return {}
    config = _config_of(run)
    values = stored_values(RunStorage(run))
    for name, declared, value in walk(config):
        section = name.partition(".")[0]
        if section in SECTIONS and (not declared.identity or declared.reaches_out(value)):
            _drop(values, name)
    _drop(values, "teacher.sees")  # of training clips only
    if _get(given, "teacher") or needs_files(config):
        values.pop("teacher", None)
    evaluation = values.get("evaluation")
    if isinstance(evaluation, dict):
        if _get(given, "evaluation", "source", "kind"):
            evaluation.pop("source", None)
        if _get(given, "evaluation", "judge") or "judge" not in evaluation:
            evaluation = {name: value for name, value in evaluation.items() if not name.startswith("judge_")}
        values["evaluation"] = evaluation
    return {name: values[name] for name in ("name", "seed", *SECTIONS) if name in values}


def needs_files(config: RunConfig) -> bool:
    """Whether the teacher of a run's config cannot be built without something outside of the folder."""
    kept = ("cache", "reference")
    return any(
        declared.reaches_out(value)
        for name, declared, value in walk(config.teacher)
        if name.rpartition(".")[2] not in kept and not name.startswith("sees.")
    )


def changes_of(config: RunConfig) -> str:
    """One line: how an evaluation differs from the run that it scores (``evaluate.run``)."""
    theirs, ours = _flat(_config_of(config.evaluate.run)), _flat(config)
    changed = [
        f"{name}={ours.get(name)} (there: {theirs.get(name)})"
        for name in dict.fromkeys([*theirs, *ours])
        if theirs.get(name) != ours.get(name)
    ]
    more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
    told = ", ".join(changed[:MOST_NAMED]) + more if changed else "nothing"
    return f"seed, window, evaluation and teacher are those of {config.evaluate.run}; changed here: {told}"


def window_notes(config: RunConfig) -> list[str]:
    """Warnings of students of ``evaluate.run`` that run at a size or a rate that they were not trained at."""
    if not config.evaluate.run:
        return []
    theirs, window = _config_of(config.evaluate.run), config.window
    return [
        f"the student {name} runs {change}"
        for name, student in theirs.students.items()
        for change in theirs.window.changes(theirs.window.size if student.side else window.size, window.fps)
    ]


def _config_of(run: str) -> RunConfig:
    try:
        return stored_config(RunStorage(run))
    except (InputError, ConfigError) as error:
        raise type(error)(f"evaluate.run: {error}") from error


def _flat(config: RunConfig) -> dict[str, Any]:
    """The options that `run_options` is about, by name, as far as they decide numbers or which teacher it is."""
    return {
        name: value
        for name, declared, value in walk(config)
        if (name == "seed" or name.partition(".")[0] in SECTIONS)
        and (declared.identity or name == "teacher.weights")
        and not isinstance(value, Mapping | list)
        and not hasattr(value, "__dataclass_fields__")
    }


def _get(values: Any, *names: str) -> Any:
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _drop(values: dict[str, Any], name: str) -> None:
    """Remove an option by its dotted name, if it is there."""
    *parents, last = name.split(".")
    node: Any = values
    for parent in parents:
        node = node.get(parent) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node.pop(last, None)
