"""Segment videos with a student: echodfkd predict VIDEO|FOLDER ... --student RUN|FILE

Reads AVI, MP4, MOV, DICOM, NIfTI, folders of these and of PNG frames, and s3:// prefixes. Writes a folder for every
video (masks, overlay.mp4, curve, beats, report.html) and an index.html over all. The same command goes on with the
videos that have no result yet. Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import sys

from echodfkd.core.terminal import print_line
from echodfkd.runtime.command import ArgumentParser, run_guarded


def main(arguments: list[str] | None = None) -> int:
    """Parse, segment, and print the result as one JSON object in the last line; 1 if no video could be used."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="videos, folders, or s3:// prefixes")
    parser.add_argument(
        "--student",
        required=True,
        metavar="RUN",
        help="embedded_large or embedded_small (shipped), a run folder, a student.safetensors or an exported .onnx",
    )
    parser.add_argument("--name", default="", help="which student, if the run has several")
    parser.add_argument("--out", default="predictions", metavar="FOLDER", help="(default: %(default)s)")
    parser.add_argument("--size", type=int, default=0, help="side of the student's frames (default: as trained)")
    parser.add_argument("--fps", type=float, default=None, help="their rate; 0 keeps the video's (default: as trained)")
    parser.add_argument("--video-fps", type=float, default=0.0, help="rate of videos whose files have none")
    parser.add_argument(
        "--formats", default="npz", help="of masks: some of npz, nifti, nrrd, dicom, with commas (%(default)s)"
    )
    parser.add_argument(
        "--hash-names", action="store_true", help="name results by a hash: file names can name patients"
    )
    parser.add_argument("--actors", type=int, default=0, help="of a Ray cluster; 0 works in this process")
    parser.add_argument("--address", default="local", help="of that cluster (default: one of this machine)")
    args = parser.parse_args(arguments)
    paths = args.__dict__.pop("paths")

    def work() -> dict[str, object]:
        from echodfkd.runtime.cluster.environment import prepare_ray
        from echodfkd.runtime.prediction_run import PredictionOptions, run_prediction

        if args.actors:
            prepare_ray(args.address)
        formats = tuple(part.strip() for part in args.formats.split(",") if part.strip())
        options = PredictionOptions(**{**vars(args), "formats": formats})
        return dict(run_prediction(paths, options, print_line))

    return run_guarded(work)


if __name__ == "__main__":
    sys.exit(main())
