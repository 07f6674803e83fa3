"""The embedded generator of clips: a beating four-chamber phantom, drawn from (seed, index) alone.

It stands in for a generative model wherever there is no download, no patient data and no GPU: an apical
four-chamber cine with known masks, frames of end-diastole and end-systole, volumes and heart rate. It is made to
be learned by shape: the other chambers and the outside are as dark as the left ventricle, so that no threshold on
grey levels finds it. It is not a substitute for ultrasound physics.

Marginals of the conditions follow what EchoNet-Dynamic reports (Ouyang et al., Nature 2020): ejection fraction
55.7 +- 12.4 %, end-diastolic volume 91 +- 46 mL. NumPy only.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from echodfkd.errors import ConfigError
from echodfkd.records import Conditions, VideoClip
from echodfkd.synthesis.phantom_anatomy import Motion, draw_anatomy, move
from echodfkd.synthesis.phantom_image import draw_view, render

Purpose = Literal["clip", "case"]
"""Training windows and evaluation cases are drawn from separate streams of one seed."""

_STREAM = {"clip": 0, "case": 1}


class PhantomSource:
    """Endless, pure source of phantom clips (see `echodfkd.synthesis.source.ClipSource`).

    Args:
        seed: first half of every clip's identity, 0 or more.
        num_frames: frames T of a training window.
        fps: frame rate; 0 draws one per clip (mostly 50, as in EchoNet-Dynamic).
        size: side of a frame in pixels, 16 or more.
        case_frames: frames of an evaluation case. Where they last a beat or more, a case holds a whole beat.

    Raises:
        ConfigError: a value is out of range.
    """

    name = "phantom"

    def __init__(self, *, seed: int, num_frames: int, fps: float, size: int, case_frames: int) -> None:
        least = (("seed", seed, 0), ("window.frames", num_frames, 1), ("window.fps", fps, 0), ("window.size", size, 16))
        for option, value, low in (*least, ("evaluation.frames", case_frames, 1)):
            if not value >= low:
                raise ConfigError(f"{option}: got {value}, the phantom needs at least {low}")
        self.seed = seed
        self.num_frames = num_frames
        self.fps = fps
        self.size = size
        self.case_frames = case_frames

    @property
    def num_cases(self) -> int | None:
        """None: there is no end to the cases."""
        return None

    def clip(self, index: int) -> VideoClip:
        """Training window ``index``; a beat may start anywhere in it."""
        return self._make(index, "clip", self.num_frames)

    def case(self, index: int) -> VideoClip:
        """Evaluation case ``index``, of its own identity space."""
        return self._make(index, "case", self.case_frames)

    def _make(self, index: int, purpose: Purpose, num_frames: int) -> VideoClip:
        conditions = draw_conditions(self.seed, index, purpose=purpose)
        rng = _generator(self.seed, index, purpose, 1)
        anatomy = draw_anatomy(conditions, rng)
        view = draw_view(anatomy, rng)
        fps = self.fps or float(rng.choice([50.0, 50.0, 50.0, 30.0, 40.0, 60.0]))
        start = rng.uniform()
        assert conditions.heart_rate_bpm is not None
        if purpose == "case" and (num_frames - 1) / fps * conditions.heart_rate_bpm / 60.0 < 1.0:
            start = -0.05 * start  # too short for a whole beat: begin just before end-diastole
        motion = move(anatomy, conditions, start_phase=start, num_frames=num_frames, fps=fps)
        video, lv_mask = render(anatomy, motion, view, size=self.size, rng=_generator(self.seed, index, purpose, 2))
        ed_frames, es_frames = find_extrema(motion, lv_mask, systole=anatomy.systole)
        tag = "i" if purpose == "clip" else "case"
        return VideoClip(
            clip_id=f"phantom-s{self.seed}-{tag}{index}-e0-w0",
            index=index,
            seed=self.seed,
            epoch=0,
            window_start=0,
            video=video,
            fps=fps,
            source=self.name,
            domain="default",
            spacing_mm=view.side / self.size,
            conditions=conditions,
            truth_labels=lv_mask.astype(np.uint8),
            ed_frames=ed_frames,
            es_frames=es_frames,
        )


def draw_conditions(seed: int, index: int, *, purpose: Purpose = "clip") -> Conditions:
    """Conditions of one clip or case, a pure function of its arguments.

    EF is normal (55.7, 12.4) %, clipped to 15..80. EDV is log-normal with mean 91 and sd 46 mL, clipped to
    35..220. Heart rate is normal (70, 13) per minute, clipped to 50..110. EF and EDV have a rank correlation of
    about -0.35, since failing hearts dilate; ESV follows from both.
    """
    a, b, c = _generator(seed, index, purpose, 0).standard_normal(3)
    rho = -0.35
    spread = math.sqrt(math.log(1.0 + (46.0 / 91.0) ** 2))
    ef = min(max(55.7 + 12.4 * a, 15.0), 80.0)
    edv = math.exp(math.log(91.0) - spread**2 / 2.0 + spread * (rho * a + math.sqrt(1.0 - rho**2) * b))
    edv = min(max(edv, 35.0), 220.0)
    return Conditions(
        ef_percent=ef,
        edv_ml=edv,
        esv_ml=edv * (1.0 - ef / 100.0),
        heart_rate_bpm=min(max(70.0 + 13.0 * c, 50.0), 110.0),
    )


def find_extrema(motion: Motion, lv_mask: np.ndarray, *, systole: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """End-diastolic and end-systolic frames: largest and smallest mask near each event that the clip holds.

    Args:
        motion: phases and volumes of the frames (T,).
        lv_mask: bool (T, H, W).
        systole: phase of end-systole.

    Returns:
        Frame numbers of ED and of ES, ascending; empty where the clip holds no such event.
    """
    area = lv_mask.sum((1, 2)).astype(np.float64)
    phase = motion.phase
    found: tuple[list[int], list[int]] = ([], [])
    for sign, offset, frames in ((1.0, 0.0, found[0]), (-1.0, systole, found[1])):
        for beat in range(math.ceil(phase[0] - offset), math.floor(phase[-1] - offset) + 1):
            near = np.flatnonzero(np.abs(phase - beat - offset) <= 0.15)
            if near.size:  # a tie in pixels is decided by the volume
                order = np.lexsort((sign * motion.volume[near], sign * area[near]))
                frames.append(int(near[order[-1]]))
    return tuple(found[0]), tuple(found[1])


def _generator(seed: int, index: int, purpose: Purpose, part: int) -> np.random.Generator:
    """A stream of its own for each clip and part (conditions, anatomy and view, speckle)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, _STREAM[purpose], index, part])))
