"""A student as files of other programs: echodfkd export runs/demo --student convlstm_3x1 --out exported."""

from __future__ import annotations

import sys
from typing import Any

from echodfkd.runtime.command import ArgumentParser, print_line, run_guarded


def main(arguments: list[str] | None = None) -> int:
    """Parse, export, and print config.json in the last line; 1 on failure."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", metavar="SOURCE", help="a run folder, a checkpoint's folder, student.safetensors")
    parser.add_argument("--student", default="", help="which one, if the run has several")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the files")
    parser.add_argument(
        "--web", metavar="FOLDER", help="write index.html there: a page that runs the student by itself"
    )
    parser.add_argument(
        "--formats", nargs="+", default=["all"], metavar="FORMAT", help="pt2, onnx, stream, int8, or all that suit it"
    )
    parser.add_argument("--size", type=int, default=0, help="side of its frames, if the file does not say it")
    parser.add_argument("--fps", type=float, help="rate of its frames, likewise; 0 is the video's own")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload --out to this model repository of the hub")
    args = parser.parse_args(arguments)
    if args.push and not args.out:
        parser.error("--push uploads the files of --out; name that folder too")
    if not (args.out or args.web):
        parser.error("name a folder: --out for files, --web for a page, or both")

    def work() -> dict[str, Any]:
        from echodfkd.inference.export.folder import export_folder
        from echodfkd.inference.export.web.page import export_page
        from echodfkd.inference.hub import check_repo, push_folder
        from echodfkd.inference.student import load_student

        student = load_student(args.source, name=args.student, size=args.size, fps=args.fps, option="SOURCE")
        title, done = args.student or "student", dict[str, Any](ok=True)
        if args.push:
            check_repo(args.push)
        if args.out:
            done |= export_folder(student, args.out, formats=args.formats, title=title, say=print_line)
        if args.push:
            done["pushed"] = push_folder(args.out, [*done["files"], "config.json", "README.md"], args.push)
        return done | (export_page(student, args.web, say=print_line) if args.web else {})

    return run_guarded(work)


if __name__ == "__main__":
    sys.exit(main())
