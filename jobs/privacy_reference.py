"""Write the file of privacy.reference: features of the frames that no clip may resemble, and the threshold.

Reference frames are those of the config's source (a training split), the threshold is a percentile over those of its
evaluation.source (patients that are not among them). evaluation.cases bounds the number of both.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from echodfkd.core.errors import InputError
from echodfkd.core.terminal import print_line
from echodfkd.runtime.command import ArgumentParser, run_guarded


def main(arguments: list[str] | None = None) -> int:
    """Parse, encode both sets, write the file; the last line is JSON. Not 0 and one sentence on failure."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="YAML file of the run (see configs/)")
    parser.add_argument("--encoder", choices=("reidentification", "pixels"), required=True, help="see privacy.encoder")
    parser.add_argument("--weights", default="", metavar="FOLDER", help="of the encoder reidentification")
    parser.add_argument("--percentile", type=float, default=95.0, help="of the largest correlations (published: 95)")
    parser.add_argument("--out", required=True, metavar="FILE", help="to name in privacy.reference")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. evaluation.cases=10000")
    args = parser.parse_args(arguments)
    if not 0 < args.percentile < 100:
        parser.error(f"--percentile: got {args.percentile:g}, must lie between 0 and 100")
    return run_guarded(lambda: write(args))


def write(args: argparse.Namespace) -> dict[str, Any]:
    """Encode both sets and write the file."""
    from echodfkd.config.file import load_config
    from echodfkd.config.sections.privacy import PrivacyConfig
    from echodfkd.sources.build import build_source
    from echodfkd.sources.privacy import make_reference

    config = load_config(args.config, args.overrides)
    sources = [
        build_source(source, config.window, seed=config.seed, case_frames=1, option=option)
        for option, source in (("source", config.source), ("evaluation.source", config.evaluation.source))
    ]
    options = PrivacyConfig(encoder=args.encoder, weights=args.weights)
    data, facts = make_reference(
        options, *sources, most=config.evaluation.cases, percentile=args.percentile, say=print_line
    )
    try:
        Path(args.out).write_bytes(data)
    except OSError as error:
        raise InputError(f"--out: {args.out} cannot be written: {error.strerror or error}") from error
    return {"ok": True, "out": args.out, **facts}


if __name__ == "__main__":
    sys.exit(main())
