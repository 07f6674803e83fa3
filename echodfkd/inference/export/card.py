"""The model card of an exported student, as the Hugging Face hub reads it, and the facts of its run.

A run folder may be a stranger's: only plain numbers and names are taken from it, and nothing in it is obeyed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from echodfkd.storage.files import RunStorage
from echodfkd.storage.untrusted import MAX_YAML_BYTES, parse_json_object, parse_yaml

MAX_SUMMARY_BYTES = 1 << 24
MAX_SCORES = 60
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PUBLISHED = re.compile(r"(.+)/checkpoints/step_\d+/([^/]+)/student\.safetensors")

EVIDENCE = {
    "phantom": "phantom truth: exact, on a drawn heart; it says nothing about patients",
    "recorded": "recorded videos with human tracings, scored by the user of the run; not checked here",
    "camus": "recorded videos with human tracings, scored by the user of the run; not checked here",
    "mixture": "a mixture of sources, scored by the user of the run; not checked here",
}
"""Level of evidence of a run's scores, by ``evaluation.source.kind``."""


@dataclass(frozen=True)
class RunFacts:
    """Facts of a student's run. ``scores``: metric -> mean, low, high, n; empty if the run has none of this step."""

    run: str = ""
    teacher: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    evidence: str = ""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def read_run_facts(path: str, step: int) -> RunFacts:
    """Facts of the run that published the student at ``path``; empty ones for a file that lies elsewhere.

    Raises:
        InputError: summary.json or config.yaml of the run cannot be read.
    """
    found = _PUBLISHED.fullmatch(path)
    if not found:
        return RunFacts()
    storage, student = RunStorage(found[1]), found[2]
    summary = parse_json_object(_read(storage, "summary.json", MAX_SUMMARY_BYTES) or b"{}", f"{found[1]}/summary.json")
    config = parse_yaml(_read(storage, "config.yaml", MAX_YAML_BYTES) or b"{}", f"{found[1]}/config.yaml")
    own = _at(summary, "students", student)
    scores = _at(own, "scores") if _at(own, "steps") == step else {}
    return RunFacts(
        run=_name(_at(config, "name")),
        teacher=_name(_at(summary, "teacher", "id")) or _name(_at(config, "teacher", "kind")),
        data={key: _plain(_at(config, "source", key)) for key in ("kind", "domain", "conditions")},
        evidence=EVIDENCE.get(_name(_at(config, "evaluation", "source", "kind")), ""),
        scores=_scores(scores),
    )


def model_card(name: str, config: Mapping[str, Any], facts: RunFacts) -> str:
    """README.md of an exported student; ``config`` is its config.json."""
    import yaml

    front: dict[str, Any] = {
        "library_name": "echodfkd",
        "pipeline_tag": "image-segmentation",
        "tags": ["echocardiography", "left-ventricle", "video", "knowledge-distillation", "synthetic-data"],
    }
    if facts.scores:
        dataset = {"type": _name(facts.data.get("kind")) or "unknown", "name": facts.evidence or "unknown"}
        metrics = [{"type": metric, "value": row["mean"]} for metric, row in facts.scores.items()]
        results = [{"task": {"type": "image-segmentation"}, "dataset": dataset, "metrics": metrics}]
        front["model-index"] = [{"name": name, "results": results}]
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    parts = [f"---\n{head}---\n\n# {name}\n", _use(config), _training(config, facts), _table_of_scores(facts)]
    return "\n".join([*parts, _files(config), _LIMITS])


def _use(config: Mapping[str, Any]) -> str:
    size, fps = config["size"], config["fps"]
    rate = f"{fps:g} frames a second" if fps else "the video's own rate"
    return (
        f"A small recurrent network that segments {', '.join(config['classes'])} in echocardiogram videos, made by"
        " distillation with EchoDFKD.\n\n"
        "**This is research software and no medical device.** Do not use it for diagnosis or treatment.\n\n"
        "## Intended use\nResearch on segmentation of echocardiograms: comparison of methods, teaching, and annotation"
        " that a person checks.\n\n"
        f"Input: grey levels 0..255, {size} x {size} pixels, {rate}. Output: logits; a pixel whose logit is above 0"
        " belongs to the class.\n"
    )


def _training(config: Mapping[str, Any], facts: RunFacts) -> str:
    import yaml

    window = config["window"]
    known = f"{window['frames']} frames, {window['size']} pixels a side" if "frames" in window else "not known"
    data = {key: value for key, value in facts.data.items() if value}
    text = yaml.safe_dump(data, sort_keys=False) if data else "not known\n"
    return (
        f"## Training\nWindows: {known}. No human label was used by the distillation itself.\n\n"
        f"- Teacher: {facts.teacher or 'not known'}\n- Updates: {config['step'] or 'not known'}\n\n"
        f"Data and conditions:\n```yaml\n{text}```\n"
    )


def _table_of_scores(facts: RunFacts) -> str:
    if not facts.scores:
        return "## Scores\nThe source of this export holds no scores of this student.\n"
    rows = [
        f"| {metric} | {row['mean']:.4g} | {row['low']:.4g} to {row['high']:.4g} | {row['n']:.0f} |"
        for metric, row in facts.scores.items()
    ]
    lines = "\n".join(["| metric | mean | 95 % interval | cases |", "|---|---|---|---|", *rows])
    return f"## Scores\nLevel of evidence: {facts.evidence or 'not known'}.\n\n{lines}\n"


def _files(config: Mapping[str, Any]) -> str:
    rows = []
    for name, file in config["files"].items():
        largest = file.get("largest_difference")
        rows.append(f"| `{name}` | {file['bytes']:,} | {'' if largest is None else f'{largest:.2g}'} |")
    table = "\n".join(["| file | bytes | largest difference of a logit |", "|---|---|---|", *rows])
    return (
        "## Files\nEach was compared with the trained student over 24 frames of phantom clips before it was written."
        " `config.json` has the sha256 of each. `.pt2` files can run code when they are opened: compare the sha256"
        f" first.\n\n{table}\n"
    )


_LIMITS = """## Limits
The network marks a ventricle in many images that hold none. Other views, scanners and sizes than those of its training
are not covered. Scores on a drawn heart compare networks with each other; they say nothing about patients. The licence
is not stated by the export: the owner of the weights adds it.
"""


def _read(storage: RunStorage, name: str, limit: int) -> bytes | None:
    """A file of a run folder; None if there is no such file."""
    try:
        return storage.read(name, limit)
    except FileNotFoundError:
        return None


def _at(values: Any, *keys: str) -> Any:
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _name(value: Any) -> str:
    return value if isinstance(value, str) and _NAME.fullmatch(value) else ""


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 53
    return float(value) if known else None


def _plain(value: Any, depth: int = 4) -> Any:
    """Numbers and names of nested options; anything else is left out."""
    if isinstance(value, dict) and depth:
        kept = {key: _plain(item, depth - 1) for key, item in list(value.items())[:100] if _name(key)}
        return {key: item for key, item in kept.items() if item not in (None, "", [], {})}
    if isinstance(value, list) and depth:
        return [item for item in (_plain(item, depth - 1) for item in value[:100]) if item not in (None, "")]
    return value if _number(value) is not None else _name(value)


def _scores(values: Any) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for metric, row in values.items() if isinstance(values, dict) else ():
        numbers = {key: _number(_at(row, key)) for key in ("mean", "low", "high", "n")}
        if _name(metric) and len(found) < MAX_SCORES and None not in numbers.values():
            found[metric] = {key: number for key, number in numbers.items() if number is not None}
    return found
