"""Write the FileList.csv of a folder with Videos/: echodfkd list-videos ROOT.

Every video is read once, for its size, rate and number of frames. Its split is TRAIN, VAL or TEST by a hash of its
name, in the shares of EchoNet-Dynamic. EF, ESV and EDV stay blank.
"""

from __future__ import annotations

import sys

from echodfkd.core.terminal import print_line
from echodfkd.runtime.command import ArgumentParser, run_guarded


def main(arguments: list[str] | None = None) -> int:
    """Parse, read the videos, write the list, and print the result as one JSON object; 1 on failure."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("root", metavar="ROOT", help="the folder that holds Videos/ (a path or an fsspec URL)")
    parser.add_argument("--split", default="", metavar="NAME", help="the split of all videos, e.g. TEST")
    args = parser.parse_args(arguments)

    def work() -> dict[str, object]:
        from echodfkd.sources.written.listing import write_file_list

        return {"ok": True, **write_file_list(args.root, split=args.split, say=print_line)}

    return run_guarded(work)


if __name__ == "__main__":
    sys.exit(main())
