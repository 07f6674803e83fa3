import io
import wave

import cv2
import numpy as np
import pytest

from echodfkd.core.errors import ClipError
from echodfkd.sources.video.decode import decode_video
from echodfkd.sources.video.encode import encode_avi, encode_mp4


def ramp(num_frames=12, height=48, width=64):
    """Grey levels 0..255 left to right, that move by 3 columns a frame."""
    row = np.linspace(0, 255, width).round().astype(np.uint8)
    return np.stack([np.tile(np.roll(row, 3 * t), (height, 1)) for t in range(num_frames)])


def write_with_cv2(path, video, fourcc):
    size = video.shape[2], video.shape[1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*fourcc), 50, size, True)
    for frame in video:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()


def read_with_cv2(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        found, frame = capture.read()
        if not found:
            return np.stack(frames)
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))


@pytest.mark.parametrize("kind", ["MJPG", "XVID", "avi", "mp4"])
def test_grey_levels_are_opencvs(tmp_path, kind):
    path = tmp_path / ("a.mp4" if kind == "mp4" else "a.avi")
    video = ramp()
    if kind in ("MJPG", "XVID"):
        write_with_cv2(path, video, kind)
    else:
        path.write_bytes((encode_mp4 if kind == "mp4" else encode_avi)(video, 50.0))
    decoded = decode_video(path.read_bytes(), name=path.name, expected_frames=len(video))
    reference = read_with_cv2(path)
    assert decoded.video.dtype == np.uint8
    assert decoded.video.shape == reference.shape == video.shape
    assert decoded.header_frames == len(video)
    assert decoded.fps == pytest.approx(50.0)
    # OpenCV goes luma -> BGR -> grey and rounds at each step: 2 levels. A limited-range stream that is not
    # expanded is off by 16 levels at both ends.
    assert np.abs(decoded.video.astype(int) - reference).max() <= 2
    assert decoded.video.min() <= 6
    assert decoded.video.max() >= 249


def test_encoders_keep_the_picture():
    yy, xx = np.mgrid[:60, :80]
    video = np.stack([128 + 60 * np.sin(xx / 9 + t / 3) + 40 * np.cos(yy / 7) for t in range(10)])
    video = video.round().astype(np.uint8)
    for data, bound in ((encode_avi(video, 32.0), 1.0), (encode_mp4(video, 32.0), 2.0)):
        error = np.abs(decode_video(data, name="a").video.astype(int) - video)
        assert error.mean() < bound  # lossy codecs on a smooth picture: below one and two grey levels


def test_odd_sizes_and_colour():
    grey = ramp(5, 33, 41)
    assert decode_video(encode_avi(grey, 30.0), name="a").video.shape == (5, 33, 41)
    padded = decode_video(encode_mp4(grey, 29.97), name="a")
    assert padded.video.shape == (5, 34, 42)
    assert padded.fps == pytest.approx(29.97, abs=1e-3)
    colour = np.zeros((5, 32, 32, 3), np.uint8)
    colour[..., 0] = 200
    red = decode_video(encode_mp4(colour, 30.0), name="a").video
    assert np.abs(red.astype(int) - round(0.299 * 200)).max() <= 3  # luma of red, ITU-R BT.601


def test_encoding_is_deterministic():
    assert encode_avi(ramp(), 50.0) == encode_avi(ramp(), 50.0)
    assert encode_mp4(ramp(), 50.0) == encode_mp4(ramp(), 50.0)


def test_a_truncated_avi_names_both_counts():
    rng = np.random.default_rng(0)
    data = encode_avi(rng.integers(0, 255, (40, 64, 64), dtype=np.uint8), 50.0)
    with pytest.raises(ClipError, match=r"^a\.avi has (1[0-9]|2[0-9]) readable frames, its header says 40"):
        decode_video(data[: len(data) // 2], name="a.avi")


def test_a_file_shorter_than_the_list_says_is_refused_and_a_longer_one_is_not():
    data = encode_avi(ramp(12), 50.0)
    with pytest.raises(ClipError, match=r"^a\.avi has 12 readable frames, the file list says 13$"):
        decode_video(data, name="a.avi", expected_frames=13)
    assert len(decode_video(data, name="a.avi", expected_frames=1).video) == 12


def test_damage_inside_a_file_is_refused():
    rng = np.random.default_rng(0)
    data = bytearray(encode_mp4(rng.integers(0, 255, (20, 64, 64), dtype=np.uint8), 50.0))
    start = data.index(b"mdat") + 2000
    data[start : start + 3000] = bytes(3000)
    with pytest.raises(ClipError, match=r"^a\.mp4 "):
        decode_video(bytes(data), name="a.mp4")


@pytest.mark.parametrize("encode", [encode_avi, encode_mp4])
def test_a_window_has_the_pixels_of_the_whole_file(encode):
    data = encode(ramp(30), 50.0)
    asked = []

    def window(frames, fps):
        asked.append((frames, fps))
        return 7, 12

    whole = decode_video(data, name="a")
    part = decode_video(data, name="a", expected_frames=30, window=window)
    assert (part.fps, part.header_frames) == (whole.fps, whole.header_frames)
    np.testing.assert_array_equal(part.video[7:12], whole.video[7:12])
    assert part.video.shape == whole.video.shape
    if encode is encode_avi:  # packets that stand for themselves: what is between window and last frame stays black
        assert asked == [(30, 50.0)]
        assert not part.video[:7].any()
        assert not part.video[12:29].any()
    np.testing.assert_array_equal(part.video[29], whole.video[29])


def test_damage_counts_where_it_is_looked_at():
    rng = np.random.default_rng(0)
    data = encode_avi(rng.integers(0, 255, (40, 64, 64), dtype=np.uint8), 50.0)
    starts = [at for at in range(len(data)) if data.startswith(b"\xff\xd8", at)]
    damaged = bytearray(data)
    damaged[starts[20] : starts[20] + 600] = bytes(600)
    with pytest.raises(ClipError, match=r"^a\.avi "):
        decode_video(bytes(damaged), name="a.avi")
    with pytest.raises(ClipError, match=r"^a\.avi cannot be read at frame 20: "):
        decode_video(bytes(damaged), name="a.avi", window=lambda frames, fps: (15, 25))
    sound = decode_video(bytes(damaged), name="a.avi", window=lambda frames, fps: (2, 10))
    np.testing.assert_array_equal(sound.video[2:10], decode_video(data, name="a.avi").video[2:10])


@pytest.mark.parametrize("where", ["in the middle", "in the last frame"])
def test_a_file_cut_short_is_refused_whatever_window_is_wanted(where):
    rng = np.random.default_rng(0)
    data = encode_avi(rng.integers(0, 255, (40, 64, 64), dtype=np.uint8), 50.0)
    end = len(data) // 2 if where == "in the middle" else data.rindex(b"\xff\xd8") + 10
    for window in (None, lambda frames, fps: (0, 5)):
        with pytest.raises(ClipError, match=r"^a\.avi (has|cannot be read at frame 39)"):
            decode_video(data[:end], name="a.avi", window=window)


def test_a_window_that_cannot_be_had_is_the_callers_error():
    def window(frames, fps):
        raise ClipError(f"too short: {frames}")

    with pytest.raises(ClipError, match=r"^too short: 12$"):
        decode_video(encode_avi(ramp(12), 50.0), name="a.avi", window=window)


def test_no_video_at_all():
    with pytest.raises(ClipError, match=r"^a\.avi is not a readable video \(14 bytes\): Invalid data"):
        decode_video(b"this is prose\n", name="a.avi")
    with pytest.raises(ClipError, match=r"^a\.avi is not a readable video \(0 bytes\)"):
        decode_video(b"", name="a.avi")
    sink = io.BytesIO()
    with wave.open(sink, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(4000))
    with pytest.raises(ClipError, match=r"^a\.avi is not a readable video \(4044 bytes\): neither an AVI nor"):
        decode_video(sink.getvalue(), name="a.avi")


def test_a_video_without_frames(tmp_path):
    path = tmp_path / "a.avi"
    cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 50, (64, 64), True).release()
    with pytest.raises(ClipError, match=r"^a\.avi (has no readable frame|is not a readable video|holds no video)"):
        decode_video(path.read_bytes(), name="a.avi")
