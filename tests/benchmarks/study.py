"""The project's study: run the cells that are missing, and write tables and figures of docs/study.md from their rows.

    python -m tests.benchmarks.study [--minutes 60] [--only sizes ...] [key=value ...]
    python -m tests.benchmarks.study --speed
    python -m tests.benchmarks.study --page

A cell is one run: a part of the study (a file of configs/study/), its condition or teacher, and a seed; its students
share every batch. The rows of a finished cell are one file of docs/study/rows/, and it is never run again. With
--minutes the command ends between two steps and the same one goes on. key=value changes every cell, such as
train.steps=20: give these another folder of rows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.config.study import study_groups
from echodfkd.core.errors import STOPPED, EchoDFKDError
from echodfkd.models.students.build import build_student
from echodfkd.storage.files import RunStorage
from tests.benchmarks.row_file import RowFile
from tests.benchmarks.study_page import CONFIGS, PAGE, PARTS, ROWS, SPEEDS, write_page


def say(line: str) -> None:
    print(line, flush=True)


def study_config(part: str, rows: str, overrides: Sequence[str]) -> RunConfig:
    """The config of a part, with this folder of rows."""
    return load_config(str(CONFIGS / f"{part}.yaml"), [*overrides, f"study.rows={rows}"])


def second_domain(config: RunConfig, folder: str, *, clips: int = 400) -> RunConfig:
    """The synthesis of the recorded folder: another scanner, and patients that no drawn clip shows."""
    window = [f"window.size={config.window.size}", f"window.fps={config.window.fps}"]
    clips_of = ["source.domain=handheld", "source.seed_offset=17", f"synthesize.clips={clips}", "synthesize.frames=48"]
    return load_config(None, [*window, *clips_of, "synthesize.preview=0", f"synthesize.out={folder}"])


def prepare(config: RunConfig) -> None:
    """Make what runs of this part read and is not in the repository: a recorded folder, teachers of few clips."""
    folders = {text.partition("=")[2] for of in config.study.variants.values() for text in of if "source.path=" in text}
    for folder in folders:
        from echodfkd.runtime.synthesis_run import run_synthesis

        run_synthesis(second_domain(config, folder), say)
    weights = [Path(config.limited.out, f"{site}.safetensors") for site in config.limited.sites]
    if config.limited.out and not all(path.exists() for path in weights):
        from echodfkd.training.teacher.limited import train_limited_teachers

        train_limited_teachers(config, report=say)


def run_parts(parts: Sequence[str], rows: str, overrides: Sequence[str], minutes: float) -> str:
    """Run what is missing, part by part. Returns "", or why it stopped before the end."""
    from echodfkd.runtime.study_run import missing_cells, run_study  # Ray, which --page does without

    ends = time.monotonic() + 60 * minutes if minutes else None
    for part in parts:
        config = study_config(part, rows, overrides)
        if missing_cells(config):
            prepare(config)
            left = 0.0 if ends is None else max(0.001, (ends - time.monotonic()) / 60)
            if stopped := run_study(replace(config, study=replace(config.study, minutes=left)), say)["stopped"]:
                return str(stopped)
        else:
            say(f"{part}: all cells of the package's own networks are there")
        if part == "comparators" and (stopped := run_other(config, rows, ends)):
            return stopped
    return ""


def run_other(config: RunConfig, rows: str, ends: float | None) -> str:
    """The comparator that is no network of the package, seed by seed."""
    from tests.benchmarks.study_deeplab import run_deeplab

    for seed in study_groups(config)[""]:
        if stopped := run_deeplab(seed[""], RunStorage(rows), say, ends=ends):
            return stopped
    return ""


def time_students(path: Path) -> None:
    """Frames a second of every student that the file lacks: one core, float32, a clip of 32 frames of 112 x 112."""
    from echodfkd.runtime.cluster.connection import machine_line

    torch.set_num_threads(1)
    file, video = RowFile(path), torch.zeros(1, 32, 112, 112, dtype=torch.uint8)
    for name, options in {
        n: s for part in PARTS for n, s in study_config(part, str(ROWS), []).students.items()
    }.items():
        if file.find(student=name):
            continue
        student = build_student(**options.network).eval()
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            with torch.inference_mode():
                student(video)
            seconds.append(time.perf_counter() - start)
        file.add({"student": name, "frames_s": round(32 / statistics.median(seconds)), "machine": machine_line()})


def main() -> int:
    """Parse, run, write the page; 75 if the time is over before the study."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so many; 0: no limit")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--rows", default=str(ROWS), metavar="FOLDER", help="of the cells")
    parser.add_argument("--speed", action="store_true", help="run nothing, time the students on one quiet core")
    parser.add_argument("--page", action="store_true", help="run nothing, write tables and figures")
    parser.add_argument("changes", nargs="*", metavar="key=value")
    args = parser.parse_args()
    try:
        if args.speed:
            time_students(SPEEDS)
        stopped = "" if args.page or args.speed else run_parts(args.only, args.rows, args.changes, args.minutes)
        if args.rows == str(ROWS):
            write_page(PAGE, ROWS)
    except EchoDFKDError as error:
        print(error, file=sys.stderr)
        return 2
    if stopped:
        say(stopped)
    return STOPPED if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
