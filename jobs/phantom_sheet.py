"""Draw the phantom's contact sheet: echodfkd phantom-sheet --out docs/figures/phantom_sheet.png.

--teacher draws a row of hearts with the contours of the truth and of a shipped teacher.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from echodfkd.config.sections.source import ChoiceSpec, ConditionsConfig, ConditionSpec
from echodfkd.core.records import VideoClip
from echodfkd.core.terminal import print_line
from echodfkd.reporting.figures.contact_sheet import contact_sheet
from echodfkd.reporting.figures.overlays import teacher_row
from echodfkd.runtime.command import ArgumentParser
from echodfkd.sources.clip_source import WindowSettings
from echodfkd.sources.patients.sampler import ConditionSampler
from echodfkd.sources.phantom.domains import DOMAIN_NAMES
from echodfkd.sources.phantom.source import PhantomSource

TEACHERS = ("embedded", "embedded_chambers", "embedded_wild")
SOUND = 55.0
EJECTION_FRACTIONS = (20.0, 32.0, 44.0, SOUND, 65.0, 75.0)
QUALITIES = (0.95, 0.65, 0.35, 0.1)


def draw(number: int, ef: float, quality: float, domain: str, seed: int) -> VideoClip:
    """Case ``number`` with this ejection fraction and quality; the fifth row shows A2C views."""
    patients = ConditionsConfig(
        ef_percent=ConditionSpec(value=ef),
        image_quality=ConditionSpec(value=quality),
        view=ChoiceSpec(value="A2C" if ef == EJECTION_FRACTIONS[-2] else "A4C"),
    )
    sampler = ConditionSampler(patients, seed=seed)
    window = WindowSettings(frames=64, fps=32.0, size=112, case_frames=64)
    return PhantomSource(sampler, window, seed=seed, domain=domain).case(number)


def main() -> None:
    """Parse, render 24 clips across ejection fraction (rows) and image quality (columns), write the picture."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("phantom_sheet.png"))
    parser.add_argument("--domain", choices=DOMAIN_NAMES, default="default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--teacher", choices=TEACHERS, help="one row of sound hearts, with its contour and the truth's")
    args = parser.parse_args()
    grid = list(itertools.product(EJECTION_FRACTIONS, QUALITIES))
    wanted = [(number, ef, quality) for number, (ef, quality) in enumerate(grid) if not args.teacher or ef == SOUND]
    clips = [draw(number, ef, quality, args.domain, args.seed) for number, ef, quality in wanted]
    picture = teacher_row(clips, args.teacher) if args.teacher else contact_sheet(clips, columns=len(QUALITIES))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(picture)
    print_line(f"{args.out}: {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
