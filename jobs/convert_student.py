"""Students from and to the authors' checkpoints: echodfkd convert-student import 33.ckpt --out FOLDER."""

from __future__ import annotations

import sys
from typing import Any

from echodfkd.runtime.command import ArgumentParser, run_guarded


def main(arguments: list[str] | None = None) -> int:
    """Parse, convert, and print the written files as one JSON object in the last line; 1 on failure."""
    parser = ArgumentParser(description=__doc__)
    ways = parser.add_subparsers(dest="way", required=True)
    importing = ways.add_parser("import", help="a .ckpt of the authors -> student.safetensors, student.json")
    importing.add_argument("source", metavar="FILE.ckpt", help="a path or an fsspec URL")
    exporting = ways.add_parser("export", help="a student trained on raw input -> {k}{n}.ckpt, {k}{n}.hyperparameters")
    exporting.add_argument("source", metavar="SOURCE", help="a run folder, a checkpoint's folder, student.safetensors")
    exporting.add_argument("--student", default="", help="which one, if the run has several")
    for way in (importing, exporting):
        way.add_argument("--out", required=True, metavar="FOLDER", help="folder of the files")
    args = parser.parse_args(arguments)

    def work() -> dict[str, Any]:
        from echodfkd.training.conversion import export_student, import_student

        if args.way == "import":
            return {"ok": True, **import_student(args.source, args.out)}
        return {"ok": True, **export_student(args.source, args.out, name=args.student)}

    return run_guarded(work)


if __name__ == "__main__":
    sys.exit(main())
