"""Store a teacher's output as its reference: echodfkd teacher-reference --config FILE --out FILE."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from echodfkd.config.file import load_config
from echodfkd.core.errors import EchoDFKDError, InputError
from echodfkd.runtime.command import ArgumentParser, fail, run_guarded


def main(arguments: list[str] | None = None) -> int:
    """Parse, run the teacher on the first training clip, write the file; 2 if the config is wrong, 1 on failure."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="YAML file of the run (see configs/)")
    parser.add_argument("--out", required=True, metavar="FILE", help="written beside the weights it is found by itself")
    parser.add_argument("--frames", type=int, default=1, help="of the clip; a teacher that sees several needs as many")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args(arguments)
    try:
        config = load_config(args.config, args.overrides)
    except EchoDFKDError as error:
        return fail(error)

    def work() -> dict[str, Any]:
        from echodfkd.runtime.stream.builders import load_teacher, training_source
        from echodfkd.teaching.reference import make_reference

        frame = training_source(config).clip(0).video[: max(1, args.frames)]
        teacher = load_teacher(config)
        try:
            Path(args.out).write_bytes(make_reference(teacher, frame))
        except OSError as error:
            raise InputError(f"--out: {args.out} cannot be written: {error.strerror or error}") from error
        return {"ok": True, "out": args.out, "teacher": teacher.teacher_id, "frames": len(frame)}

    return run_guarded(work)


if __name__ == "__main__":
    sys.exit(main())
