"""Both directions of a remote teacher's protocol: how messages are spoiled and what must hold then."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa

from echodfkd.core.errors import InputError
from echodfkd.teaching.remote.messages import (
    Limits,
    MaskResponse,
    ServiceInfo,
    decode_info,
    decode_masks,
    encode_info,
    encode_masks,
    encode_video,
)
from echodfkd.teaching.remote.service import Answer, MaskService
from tests.fuzz.mutate import JSON_VALUES, NUMBERS, WORDS, damage_bytes, damage_json
from tests.helpers.teachers import FloatTeacher

VIDEO = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 8), dtype=np.uint8)
LIMITS = Limits(max_body_bytes=1 << 16, max_frames=64, max_side=64)
TOKEN = "0123456789abcdef"


class MaskRequest:
    """What reaches the service: head and body. Its answer is masks of the video's shape, or a refusal in JSON."""

    name = "mask_request"

    def __init__(self, folder: Path) -> None:
        self.good = encode_video(VIDEO)
        self.service = MaskService(_Echo(), LIMITS, TOKEN)

    def run(self, rng: random.Random) -> None:
        body = _spoil(rng, self.good)
        headers = {"authorization": f"Bearer {TOKEN}", "content-length": str(len(body))}
        if rng.random() < 0.2:
            headers[rng.choice(list(headers))] = rng.choice(WORDS)
        method, path = rng.choice((("POST", "/v1/masks"),) * 8 + (("GET", rng.choice(WORDS)), ("PUT", "/v1/masks")))
        found = self.service.admit(method, path, headers)
        answer = found if isinstance(found, Answer) else self.service.teach(body[:found])
        if answer.status == 200:
            N, T, H, W = _shape_in(body)
            decode_masks(answer.body, (N, T, 1, H, W), "own")
            return
        assert answer.status in (400, 401, 404, 405, 411, 413), answer  # no 422: this teacher takes any frame
        said = json.loads(answer.body)["error"]
        assert said.isprintable()
        raise InputError(said)


class MaskAnswer:
    """What comes back from a service that may be anybody: masks of the asked shape, or a sentence."""

    name = "mask_answer"

    def __init__(self, folder: Path) -> None:
        self.masks = encode_masks(MaskResponse(VIDEO[:, :, None], "teacher-1", (1,)))
        self.info = encode_info(ServiceInfo("teacher-1", ("background", "LV", "LA"), LIMITS))

    def run(self, rng: random.Random) -> None:
        if rng.random() < 0.3:
            info = decode_info(damage_json(rng, self.info), "the answer")
            assert info.limits.clips_in((4, 8, 8)) >= 0
            assert "/" not in info.teacher_id
            return
        shape = VIDEO[:, :, None].shape
        taught = decode_masks(_spoil(rng, self.masks), shape, "the answer")
        assert taught.masks.shape == shape
        assert taught.masks.dtype == np.uint8
        assert all(0 <= row < len(VIDEO) for row in taught.unusable)
        assert "/" not in taught.teacher_id


class _Echo(FloatTeacher):
    teacher_id, class_names = "echo", ("background", "LV")

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        return video_NTHW.astype(np.float32) / 255


def _spoil(rng: random.Random, good: bytes) -> bytes:
    """Damaged bytes; or another header or array, with a sha256 and a length that fit."""
    if rng.random() < 0.3:
        return damage_bytes(rng, good)
    size = int.from_bytes(good[4:8], "little")
    text, blob = good[8 : 8 + size], good[8 + size :]
    if rng.random() < 0.4:
        content = rng.randbytes(rng.choice((0, 1, 768, 769, 1 << 12)))
        blob = rng.choice(
            (
                b"",
                content,
                damage_bytes(rng, blob),
                pa.Codec("zstd").compress(content, asbytes=True),
                pa.Codec("zstd").compress(bytes(1 << 24), asbytes=True),
            )
        )
    values = {**json.loads(text), "sha256": hashlib.sha256(blob).hexdigest()}
    if rng.random() < 0.6:
        key = rng.choice(list(values))
        values[key] = rng.choice((*JSON_VALUES, *WORDS, *NUMBERS))
    if rng.random() < 0.4:
        values["shape"] = [rng.choice((*NUMBERS, 3, 4, 8)) for _ in range(rng.randint(0, 6))]
    text = json.dumps(values).encode()
    if rng.random() < 0.2:
        text = damage_json(rng, text)
    return good[:4] + rng.choice((len(text),) * 9 + NUMBERS[:8]).to_bytes(8, "little", signed=True)[:4] + text + blob


def _shape_in(body: bytes) -> tuple[int, ...]:
    size = int.from_bytes(body[4:8], "little")
    try:
        return tuple(json.loads(body[8 : 8 + size])["shape"])
    except (ValueError, KeyError) as error:
        raise AssertionError("a request without a shape was taught") from error
