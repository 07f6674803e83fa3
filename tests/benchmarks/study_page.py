"""Tables, figures and answers of docs/study.md, all computed from the committed rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from echodfkd.config.file import load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.run import RunConfig
from echodfkd.config.study import study_groups
from echodfkd.metrics.cardiac import pearson_r
from echodfkd.metrics.summary import Interval
from echodfkd.reporting.case_table import values_at
from echodfkd.reporting.figures.figure_files import svg_file
from echodfkd.reporting.rows import RunRows, column
from echodfkd.reporting.study.cell import CURVE, has_cell, read_cell
from echodfkd.reporting.study.compared import RunModel, markdown, score_interval, scored_model, student_interval
from echodfkd.storage.files import RunStorage
from tests.benchmarks.row_file import RowFile

ROOT = Path(__file__).parents[2]
CONFIGS, PAGE = Path("configs/study"), Path("docs/study.md")
ROWS, FIGURES = Path("docs/study/rows"), Path("docs/study")
SPEEDS = Path("docs/study/speed.csv")
PARTS = ("sizes", "comparators", "repetition", "specialists", "teachers", "sixteen")
"""Files of configs/study, in the order in which they are run."""
OTHER = "deeplab_mobilenet"
"""Student of `comparators` that is no network of the package (`study_deeplab`), in cells of its own."""
COMMAND = "python -m tests.benchmarks.study --minutes 60 --only {part}"
METRICS = {
    "dice_all": ("Dice", 3), "dice_ed": ("ED", 3), "dice_es": ("ES", 3), "published_afd_ed": ("aFD ED", 2),
    "published_afd_es": ("aFD ES", 2), "ed_error_frames": ("blind ED", 2), "es_error_frames": ("blind ES", 2),
    "ef_r": ("EF r", 2), "ef_error": ("EF error", 1), "judge_score": ("judge", 3),
}  # fmt: skip
"""Columns of the tables and their digits."""
UNBOUNDED = ("ef_r", "judge_score")
"""Those that can be below 0."""


@dataclass(frozen=True)
class Part:
    """The cells of a part that are there: condition (or teacher, or "") -> seed -> rows; and how many there will be."""

    name: str
    cells: dict[str, dict[int, RunRows]]
    wanted: int

    @property
    def count(self) -> int:
        """Cells that are there."""
        return sum(map(len, self.cells.values()))

    def models(self, condition: str, student: str) -> dict[int, RunModel]:
        """Seed -> a student (or the teacher, "") of a condition."""
        return {seed: scored_model(rows, student) for seed, rows in self.cells.get(condition, {}).items()}

    @property
    def missing(self) -> str:
        """A line on cells that are not there, with the command that runs them; "" if all are."""
        if self.count == self.wanted:
            return ""
        got = f"{self.count} of {self.wanted} cells" if self.count else "not run yet"
        return f"`{self.name}`: {got}. `{COMMAND.format(part=self.name)}`"


def read_part(name: str, folder: Path) -> Part:
    """The cells of a part. Raises `InputError` if a file there is none, or is of other options than today's."""
    rows, runs = RunStorage(str(folder)), part_runs(name)
    cells: dict[str, dict[int, RunRows]] = {condition: {} for condition, _ in runs}
    for condition, run in runs:
        if has_cell(rows, run.name, config_hash(run)):
            cells[condition][run.seed] = read_cell(rows, run.name)
    if name != "comparators":
        return Part(name, cells, len(runs))
    for _, run in runs:
        if has_cell(rows, other_cell(run), config_hash(run)):
            cells.setdefault(OTHER, {})[run.seed] = read_cell(rows, other_cell(run))
    return Part(name, cells, 2 * len(runs))


def other_cell(run: RunConfig) -> str:
    """Name of the cell of `OTHER` on the stream of a run."""
    stem, _, seed = run.name.rpartition("-")
    return f"{stem}_{OTHER}-{seed}"


@cache
def part_runs(name: str) -> list[tuple[str, RunConfig]]:
    """Every run of a part and its condition: a variant, a teacher, or ""."""
    groups = study_groups(load_config(str(ROOT / CONFIGS / f"{name}.yaml"), []))
    return [(teacher or variant, run) for teacher, of in groups.items() for seed in of for variant, run in seed.items()]


def value_of(model: RunModel, metric: str) -> float:
    """A run's value: the mean over its cases, or a number of all of them."""
    if metric not in ("ef_r", "ef_error"):
        values = [value for value in model.values(metric).values() if np.isfinite(value)]
        return float(np.mean(values)) if values else float("nan")
    known = dict(zip(column(model.rows.cases, "clip_id"), column(model.rows.cases, "ef_percent"), strict=True))
    pairs = np.array([(value, known[clip]) for clip, value in model.values("ef_area").items()], np.float64).reshape(
        -1, 2
    )
    own, truth = pairs[np.isfinite(pairs).all(axis=1)].T
    if metric == "ef_error":
        return float(np.abs(own - truth).mean()) if len(own) else float("nan")
    return float(pearson_r(own, truth)) if len(own) > 2 else float("nan")


def over_seeds(values: Sequence[float], metric: str) -> Interval:
    """Mean and 95 % interval over the seeds; of one seed no interval, which is NaN."""
    if len(values) < 2 or not np.isfinite(values).all():
        return Interval(
            float(np.mean(values)) if len(values) else float("nan"), float("nan"), float("nan"), len(values)
        )
    return student_interval(values) if metric in UNBOUNDED else score_interval(values, metric)


def text_of(found: Interval, digits: int = 3, *, sign: str = "") -> str:
    """``mean [low, high]``; without an interval only the mean; a dash if there is none."""
    if not np.isfinite(found.mean):
        return "–"
    number = f"{found.mean:{sign}.{digits}f}"
    return (
        number
        if not np.isfinite(found.low)
        else f"{number} [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"
    )


def table(part: Part) -> str:
    """One row per condition and student: cost, and every metric over the seeds that are there."""
    lines = []
    speeds = {str(row["student"]): str(row["frames_s"]) for row in RowFile(ROOT / SPEEDS).rows}
    for condition, seeds in part.cells.items():
        first = next(iter(seeds.values()), None)
        scored = [name for name in ("", *first.students) if first.scored_steps(name)] if first else []
        for student in scored:
            models = part.models(condition, student)
            size = first.sizes.get(student, {}) if first else {}
            weights, macs = size.get("parameters"), size.get("macs_per_frame")
            cells = [
                "drawn" if condition in ("", OTHER) else condition,
                student or "its teacher",
                f"{weights:,}" if weights else "–",
                f"{macs / 1e6:.0f}" if macs else "–",
            ]
            cells.append(speeds.get(student, "–"))
            for metric, (_, digits) in METRICS.items():
                cells.append(text_of(over_seeds([value_of(m, metric) for m in models.values()], metric), digits))
            lines.append([*cells, str(len(models))])
    if not lines:
        return part.missing
    head = ["clips", "student", "weights", "MMAC", "frames/s", *(label for label, _ in METRICS.values()), "seeds"]
    return "\n\n".join(text for text in (markdown(head, lines, names=2), setting(part), part.missing) if text)


def last_gain(part: Part) -> str:
    """How far Dice still rose at the end, over all cells and students; "" if they were scored once."""
    gains, steps = [], (0, 0)
    for rows in (cell for seeds in part.cells.values() for cell in seeds.values()):
        for student in rows.students:
            if len(scored := rows.scored_steps(student)) > 1:
                steps = (scored[-2], scored[-1])
                before, after = (values_at(rows, student, step, CURVE) for step in steps)
                gains.append(float(np.nanmean([after[clip] - before[clip] for clip in after])))
    if not gains:
        return ""
    return f" From step {steps[0]} to {steps[1]} Dice rose by {np.mean(gains):+.4f} (at most {max(gains):+.4f})."


def setting(part: Part) -> str:
    """How the cells were made, and whether their curves are flat."""
    rows = [cell for seeds in part.cells.values() for cell in seeds.values()]
    first, hours = rows[0], sum(float(cell.run["seconds"]) for cell in rows) / 3600
    train, window = first.config["train"], first.config["window"]
    return (
        f"{train['steps']} steps of {train['global_batch']} clips of {window['frames']} frames, {window['size']} x"
        f" {window['size']} pixels; {len(first.cases)} held-out cases a seed; MMAC of a frame of 112 x 112 pixels;"
        f" {hours:.1f} hours of work on {' and '.join(sorted({str(cell.run['machine']) for cell in rows}))}."
        f"{last_gain(part)}"
    )


def write_page(page: Path, folder: Path) -> None:
    """Replace every generated block of the page, and the figures beside it."""
    text, figures = blocks(folder)
    page.write_text(filled(page.read_text(), text))
    for name, content in figures.items():
        Path(FIGURES, name).write_bytes(content)


def filled(page: str, text: dict[str, str]) -> str:
    """The page with these texts between ``<!-- NAME -->`` and ``<!-- end -->``."""

    def block(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n{text[match[1]]}\n<!-- end -->"

    return re.sub(r"<!-- ([\w-]+) -->\n.*?<!-- end -->", block, page, flags=re.DOTALL)


def blocks(folder: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """All texts and figures of the page by name."""
    from tests.benchmarks.study_questions import QUESTIONS, decision, pareto

    parts = {name: read_part(name, folder) for name in PARTS}
    text = {f"table-{name}": table(part) for name, part in parts.items()}
    text["decision"] = decision(parts["sizes"])
    figures = {}
    for name, ask in {"pareto": pareto, **QUESTIONS}.items():
        answer, block = ask(parts), name if name == "pareto" else f"question-{name}"
        text[block] = answer.text
        if answer.figure is not None:
            file = f"{block.replace('-', '_')}.svg"
            figures[file] = svg_file(answer.figure(), block)
            text[block] += f"\n\n![{answer.title}](study/{file})"
    return text, figures


@dataclass(frozen=True)
class Answer:
    """A sentence with a number and its interval, and the figure; no figure if the cells are not there."""

    text: str
    title: str = ""
    figure: Callable[[], Any] | None = None
