"""Segment many videos with one student, in this process or by actors of a cluster.

part      consumes        produces                    waits for        unblocked by
driver    results         index.html, the table       the next video   an actor
actor     a video's name  its folder of results       a name           the driver

Each video has a folder, whose ``result.json`` is written last: the same command goes on with those that have none.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from echodfkd.config.run import RayConfig
from echodfkd.core.counter import Counter
from echodfkd.core.errors import ClipError, EchoDFKDError, InputError
from echodfkd.core.redaction import dump_json, redact_values
from echodfkd.inference.inputs import OpenVideo, VideoFile, find_videos
from echodfkd.inference.segmentation import Segmentation, segment_cine
from echodfkd.inference.student import LoadedStudent, load_student
from echodfkd.reporting.segmented.index import write_index
from echodfkd.reporting.segmented.mask_files import FORMATS
from echodfkd.reporting.segmented.video import video_facts, write_video
from echodfkd.storage.files import RunStorage
from echodfkd.storage.untrusted import parse_json_object

RESULT = "result.json"
_NO_IMAGE = "no DICOM segmentation is written: this video is no DICOM image with valid UIDs, to which it could refer"


@dataclass(frozen=True)
class PredictionOptions:
    """Options of `run_prediction`: see ``echodfkd predict --help``."""

    student: str
    name: str = ""
    out: str = "predictions"
    size: int = 0
    fps: float | None = None
    video_fps: float = 0.0
    formats: tuple[str, ...] = ("npz",)
    hash_names: bool = False
    actors: int = 0
    address: str = "local"


def run_prediction(paths: Sequence[str], options: PredictionOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Segment every video of ``paths`` that has no result yet, and write the index of all.

    Returns:
        ``{"ok", "index", "videos", "failed", "real_time_factor"}``: the last is seconds of video per second of work of
        this call, None if it did none.

    Raises:
        InputError: the student or the paths cannot be used at all, or the folder holds results of another student.
    """
    if unknown := sorted(set(options.formats) - set(FORMATS)):
        raise InputError(f"--formats: got {unknown[0]!r}, allowed are {', '.join(FORMATS)}")
    worker = _Worker(options)
    storage = RunStorage(options.out)
    storage.check_writable("--out")
    facts = worker.facts
    _check_folder(storage, facts)
    videos = find_videos(paths, hash_names=options.hash_names)
    pending = [video for video in videos if not (video.name and storage.exists(f"{video.name}/{RESULT}"))]
    names = {video.place: video.name for video in videos}
    team = _team(options) if options.actors else contextlib.nullcontext(lambda todo: map(worker.predict, todo))
    watched_s, worked_s, worked = 0.0, 0.0, 0
    with team as predict_all, Counter("videos", len(pending), say) as counter:
        for count, (place, result) in enumerate(predict_all(pending), 1):
            names[place] = result["name"]
            if "work_s" in result:
                worked += 1
                watched_s, worked_s = watched_s + (result.get("seconds") or 0.0), worked_s + result["work_s"]
                say(f"{count} of {len(pending)}: {_line(result)}")
            counter.show(count)
    results = [_read_result(storage, name) for name in dict.fromkeys(names[video.place] for video in videos)]
    if worked < len(results):
        say(f"{len(results) - worked} of {len(results)} videos had a result already")
    failed = sum(bool(result["error"]) for result in results)
    index = write_index(storage, results, {key: str(value) for key, value in facts.items()})
    factor = watched_s / worked_s if worked_s else None
    if factor is not None:
        say(f"{watched_s:.1f} s of video in {worked_s:.1f} s of work: {factor:.2f} times as fast as the video")
    return {"ok": failed < len(results), "index": index, "videos": len(results), "failed": failed,
            "real_time_factor": factor}  # fmt: skip


class _Worker:
    """A student that segments one file after the other."""

    def __init__(self, options: PredictionOptions) -> None:
        self._options = options
        if options.actors:
            torch.set_num_threads(1)

    @functools.cached_property
    def _student(self) -> LoadedStudent:
        options = self._options
        return load_student(options.student, name=options.name, size=options.size, fps=options.fps)

    @property
    def facts(self) -> dict[str, Any]:
        """What results depend on; folders of other facts are not mixed."""
        student = self._student
        return {"student": student.file.sha256[:16], "size": student.size, "fps": student.fps}

    def predict(self, video: VideoFile) -> tuple[int, dict[str, Any]]:
        """Segment one file and write its folder: the video's place and its result.

        A file at fault is a result with its reason. A video that has a result already is its name only: without
        ``work_s``.
        """
        began = time.monotonic()
        name = video.name_unread
        result: dict[str, Any] = {"error": "", "notes": []}
        storage = RunStorage(self._options.out)
        try:
            opened = video.open()
            name = opened.name
            if not video.name and storage.exists(f"{name}/{RESULT}"):
                return video.place, {"name": name}
            found = self._segment(opened)
            write_video(RunStorage(f"{storage.root}/{name}"), name, found, self._options.formats)
            result |= {**video_facts(found), "notes": list(found.notes)}
        except ClipError as error:
            result["error"] = str(error)
        result |= {"name": name, "work_s": time.monotonic() - began}
        storage.write(f"{name}/{RESULT}", dump_json(result))
        return video.place, result

    def _segment(self, video: OpenVideo) -> Segmentation:
        wants_dicom = "dicom" in self._options.formats
        cine = video.decode(references=wants_dicom)
        found = segment_cine(self._student, cine, fps=self._options.video_fps)
        return replace(found, notes=(*found.notes, _NO_IMAGE)) if wants_dicom and not found.reference else found


def _check_folder(storage: RunStorage, facts: dict[str, Any]) -> None:
    """Refuse a folder that holds results of other weights, another size or rate."""
    if storage.create_once("student.json", dump_json(facts)):
        return
    known = parse_json_object(storage.read("student.json"), f"{storage.root}/student.json")
    if known != redact_values(facts):
        raise InputError(
            f"--out: {storage.root} holds results of {known}, this command has {facts}; name another folder"
        )


def _read_result(storage: RunStorage, name: str) -> dict[str, Any]:
    where = f"{name}/{RESULT}"
    result = parse_json_object(storage.read(where), f"{storage.root}/{where}")
    return {"notes": [], "flags": {}, "error": "", **result, "name": name}


def _line(result: dict[str, Any]) -> str:
    if result["error"]:
        return f"{result['name']} cannot be used: {result['error']}"
    known = [f"{result['frames']} frames", f"{result['beats']} beats"]
    if result["heart_rate_bpm"] is not None:
        known.append(f"{result['heart_rate_bpm']:.0f}/min")
    if result["ef_percent"] is not None:
        known.append(f"EF {result['ef_percent']:.0f} %")
    if result["flags"]:
        known.append(f"flags: {', '.join(result['flags'])}")
    return f"{result['name']}, {', '.join(known)}"


@contextlib.contextmanager
def _team(
    options: PredictionOptions,
) -> Iterator[Callable[[Sequence[VideoFile]], Iterator[tuple[int, dict[str, Any]]]]]:
    """Actors of a cluster, each with the student; an actor that dies is started again."""
    import ray
    from ray.exceptions import RayActorError, RayTaskError
    from ray.util import ActorPool

    from echodfkd.runtime.cluster.connection import connected, last_sentence

    with connected(RayConfig(address=options.address)):
        actor = ray.remote(_Worker).options(num_cpus=1, max_restarts=3, max_task_retries=3)
        pool = ActorPool([actor.remote(options) for _ in range(options.actors)])

        def predict_all(videos: Sequence[VideoFile]) -> Iterator[tuple[int, dict[str, Any]]]:
            try:
                yield from pool.map_unordered(lambda worker, video: worker.predict.remote(video), videos)
            except (RayTaskError, RayActorError) as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, EchoDFKDError):
                    raise type(cause)(str(cause)) from error
                raise InputError(f"an actor failed: {last_sentence(error)}") from error

        yield predict_all
