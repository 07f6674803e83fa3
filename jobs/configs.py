"""List the configs that ship, or copy them: echodfkd configs [FOLDER]."""

from __future__ import annotations

import sys
from pathlib import Path

from echodfkd.core.terminal import print_line
from echodfkd.runtime.command import ArgumentParser, run_guarded


def main(arguments: list[str] | None = None) -> int:
    """Parse, list or copy; the last line is one JSON object."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="copy them into it; files there are kept")
    args = parser.parse_args(arguments)

    def work() -> dict[str, object]:
        from echodfkd.core.shipped import shipped_configs, shipped_folder

        names = shipped_configs()
        for name, summary in names.items():
            if args.folder is None:
                print_line(f"{name:26} {summary}")
                continue
            Path(args.folder).mkdir(parents=True, exist_ok=True)
            target = Path(args.folder, name)
            if target.exists():
                print_line(f"{target} is there already, and kept")
            else:
                target.write_bytes((shipped_folder("configs") / name).read_bytes())
        return {"ok": True, "folder": args.folder or str(shipped_folder("configs")), "configs": list(names)}

    return run_guarded(work)


if __name__ == "__main__":
    sys.exit(main())
