"""What a container says beside the pixels is followed, or refused in a sentence."""

import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from echodfkd.core.errors import ClipError
from echodfkd.sources.video.cine import read_cine
from echodfkd.sources.video.decode import decode_video
from tests.helpers.avi import avi_bytes, dib_chunks
from tests.helpers.video import encode

CRISP = {"crf": "1", "qmin": "1", "qmax": "2"}


def picture(num_frames=20, height=32, width=48):
    """uint8 (T, H, W): bright at the top left, grey at the top right, and frame t at the level 20 + 8 t below."""
    video = np.zeros((num_frames, height, width), np.uint8)
    video[:, :16, :16], video[:, :16, 32:] = 235, 120
    video[:, 16:] = (20 + 8 * np.arange(num_frames))[:, None, None]
    return video


def numbers(video):
    """Which frames of `picture` these are."""
    return np.rint((video[:, 24:, 24].mean(1) - 20) / 8).astype(int).tolist()


def windows_equal(data, whole):
    for first, stop in ((0, 2), (len(whole) // 2, len(whole))):
        part = decode_video(data, name="a", window=lambda frames, fps, window=(first, stop): window).video
        assert part.shape == whole.shape
        np.testing.assert_array_equal(part[first:stop], whole[first:stop])


TURNS = [
    (degrees, left_right, codec)
    for codec in ("libx264", "mjpeg")
    for degrees in (0, 90, 180, 270)
    for left_right in (False, True)
]


@pytest.mark.parametrize(("degrees", "left_right", "codec"), TURNS)
def test_a_video_is_turned_as_players_turn_it(tmp_path, degrees, left_right, codec):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    options = {} if codec == "mjpeg" else {"crf": "5"}
    data = encode(
        picture(4), codec, pixels, layout="mov", options=options,
        prepare=lambda stream: stream.set_display_rotation(degrees, hflip=left_right),
    )  # fmt: skip
    found = decode_video(data, name="a").video
    windows_equal(data, found)
    # numpy turns counter-clockwise as FFmpeg counts here; the flip comes after the turn
    expected = np.rot90(picture(4), degrees // 90, axes=(1, 2))
    expected = expected[:, :, ::-1] if left_right else expected
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 6
    if not left_right:  # OpenCV turns, but it does not flip
        path = tmp_path / "a.mov"
        path.write_bytes(data)
        _, opened = cv2.VideoCapture(str(path)).read()
        assert np.abs(cv2.cvtColor(opened, cv2.COLOR_BGR2GRAY).astype(int) - found[0]).mean() < 2


def test_other_turns_are_refused():
    data = encode(picture(4), "libx264", "yuv420p", layout="mp4", prepare=lambda s: s.set_display_rotation(30))
    with pytest.raises(ClipError, match=r"^a is to be shown turned by 30 degrees or stretched; expected quarter"):
        decode_video(data, name="a")


def cut(data, frames):
    """An MP4 whose edit list skips the first frames, as ``ffmpeg -ss ... -c copy`` leaves it."""
    at = data.index(b"elst")
    _, count, duration, start = struct.unpack_from(">IIIi", data, at + 4)
    movie = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    media = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    assert count == 1
    changed = bytearray(data)
    struct.pack_into(">Ii", changed, at + 12, duration - frames * movie // 50, start + frames * media // 50)
    return bytes(changed)


@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", {"g": "10", "bf": "2"}), ("libx264", {"g": "5"}), ("mpeg4", {"g": "6", "bf": "2"}), ("mjpeg", {})],
)
def test_frames_that_an_edit_list_cuts_are_not_shown(tmp_path, codec, options):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    data = cut(encode(picture(), codec, pixels, layout="mov", options={**CRISP, **options}), 13)
    found = decode_video(data, name="a", expected_frames=7)
    assert numbers(found.video) == [13, 14, 15, 16, 17, 18, 19]
    assert (found.fps, found.header_frames) == (50.0, 7)
    windows_equal(data, found.video)
    path = tmp_path / "a.mov"
    path.write_bytes(data)
    capture, shown = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        shown += 1
    assert shown == 7
    with pytest.raises(ClipError, match=r"^a has 7 readable frames, the file list says 8$"):
        decode_video(data, name="a", expected_frames=8)


def test_a_file_with_an_edit_list_that_is_cut_short_is_refused(tmp_path):
    video = np.random.default_rng(0).integers(0, 255, (20, 64, 64), dtype=np.uint8)
    path = tmp_path / "a.mp4"
    encode(video, "libx264", "yuv420p", layout="mp4", options={"g": "5"}, path=str(path))
    data = cut(path.read_bytes(), 7)
    assert len(decode_video(data, name="a").video) == 13
    for window in (None, lambda frames, fps: (0, 2)):
        with pytest.raises(ClipError, match=r"^a (has \d+ readable frames, its header says 20|cannot be read after)"):
            decode_video(data[: len(data) * 2 // 3], name="a", window=window)


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_a_variable_frame_rate_is_refused(codec):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    even = [20 * t for t in range(20)]
    slower = [20 * t + 80 * max(0, t - 9) for t in range(20)]
    dropped = [20 * t + 20 * (t > 9) for t in range(20)]
    jitter = [20 * t + t % 2 * 4 for t in range(20)]
    thirds = [round(t * 1000 / 30) for t in range(20)]
    for times, fps in ((even, 50.0), (jitter, 50.0), (thirds, 30.0)):
        data = encode(picture(), codec, pixels, layout="mov", times=times)
        assert decode_video(data, name="a").fps == pytest.approx(fps, rel=0.015)
    for times in (slower, dropped):
        data = encode(picture(), codec, pixels, layout="mov", times=times)
        for window in (None, lambda frames, fps: (0, 2)):
            with pytest.raises(ClipError, match=r"^a has a variable frame rate \((10|25) to 50 frames a second\); "):
                decode_video(data, name="a", window=window)


def uncompressed(**changed):
    colours = np.repeat(picture()[..., None], 3, 3)
    return avi_bytes(dib_chunks(colours), 32, 48, 24, **changed)


@pytest.mark.parametrize(
    ("rate", "microseconds", "fps"),
    [((1, 50), 20_000, 50.0), ((1001, 30_000), 0, 30_000 / 1001), ((0, 0), 20_000, 50.0), ((0, 0), 0, 0.0),
     ((1, 0), 0, 0.0), ((1, 1_000_000), 1, 1e6)],
)  # fmt: skip
def test_a_header_without_a_rate_has_none(rate, microseconds, fps):
    data = uncompressed(rate=rate, microseconds=microseconds)
    found = decode_video(data, name="a")
    assert found.fps == pytest.approx(fps)
    assert len(found.video) == 20
    asked = []
    decode_video(data, name="a", window=lambda frames, fps: asked.append(fps) or (0, 1))
    assert asked == [found.fps]


@pytest.mark.parametrize("index", [True, False])
def test_empty_chunks_are_named(index):
    chunks = dib_chunks(np.repeat(picture()[..., None], 3, 3))
    chunks[5] = chunks[6] = b""
    for window in (None, lambda frames, fps: (0, 2)):
        with pytest.raises(
            ClipError, match=r"^a has no picture for frame 5 \(an empty chunk, for which players repeat"
        ):
            decode_video(avi_bytes(chunks, 32, 48, 24, index=index), name="a", window=window)


def test_an_avi_may_number_more_chunks_than_it_has():
    """As FFmpeg copies H.264 into AVI: a rate of many ticks, most of which have no chunk."""
    chunks = [b"", b"", b""] * 20
    chunks[::3] = dib_chunks(np.repeat(picture()[..., None], 3, 3))
    data = avi_bytes(chunks, 32, 48, 24, rate=(1, 150))
    found = decode_video(data, name="a")
    assert (found.fps, found.header_frames) == (50.0, 20)
    assert numbers(found.video) == list(range(20))
    windows_equal(data, found.video)
    short = avi_bytes([*chunks[:30], *[b""] * 30], 32, 48, 24, rate=(1, 150))
    with pytest.raises(ClipError, match=r"^a has 10 readable frames, its header says 20$"):
        decode_video(short, name="a")


def test_a_picture_that_is_too_large_says_its_size():
    large = np.zeros((2, 2160, 3840), np.uint8)
    fast = {"preset": "ultrafast"}
    for data in (encode(large, "mjpeg", "yuvj420p"), encode(large, "libx264", "yuv420p", layout="mp4", options=fast)):
        with pytest.raises(
            ClipError, match=r"^a is too large: frame 0 has 3840 x 2160 pixels, allowed are at most 4194"
        ):
            decode_video(data, name="a")


def test_two_videos_in_one_file_are_refused():
    def second(stream):
        other = stream.container.add_stream("mjpeg", rate=50)
        other.width, other.height, other.pix_fmt = 48, 32, "yuvj420p"
        first = av.VideoFrame.from_ndarray(picture(1)[0], format="gray").reformat(format="yuvj420p")
        stream.container.mux(other.encode(first))

    data = encode(picture(4), "mjpeg", "yuvj420p", layout="mov", prepare=second)
    with pytest.raises(ClipError, match=r"^a holds 2 video streams; expected one$"):
        decode_video(data, name="a")


def test_interlaced_pictures_are_refused():
    data = encode(picture(6), "mpeg4", "yuv420p", layout="avi", options={"flags": "+ildct+ilme", "top": "1"})
    with pytest.raises(ClipError, match=r"^a is interlaced: frame 0 holds two half pictures; expected whole ones$"):
        decode_video(data, name="a")


def test_pixels_that_are_not_square_keep_their_frames_and_are_said():
    def wide(stream, turn=0):
        stream.codec_context.sample_aspect_ratio = Fraction(16, 9)
        stream.set_display_rotation(turn)

    found = read_cine(encode(picture(4), "libx264", "yuv420p", layout="mov", prepare=wide), "a")
    assert found.warnings == ("a has pixels 1.78 times as wide as high, of unknown lengths",)
    assert found.sides == pytest.approx((0.75, 4 / 3))  # of area 1
    assert (found.video.shape, found.spacing_mm) == ((4, 32, 48), None)
    turned = read_cine(encode(picture(4), "libx264", "yuv420p", layout="mov", prepare=lambda s: wide(s, 90)), "a")
    assert turned.video.shape == (4, 48, 32)
    assert turned.sides == pytest.approx((4 / 3, 0.75))


def test_other_codecs_are_called_by_their_names():
    for codec, name in (("libsvtav1", "av1"), ("libx265", "hevc")):
        data = encode(picture(2, 64, 64), codec, "yuv420p", layout="mp4")
        with pytest.raises(ClipError, match=rf"^a is encoded as {name}; expected one of mjpeg, "):
            decode_video(data, name="a")


def test_transparency_is_ignored():
    opaque = np.zeros((4, 32, 48, 4), np.uint8)
    opaque[..., :3] = picture(4)[..., None]
    for alpha in (0, 100, 255):
        opaque[..., 3] = alpha
        np.testing.assert_array_equal(
            decode_video(avi_bytes(dib_chunks(opaque), 32, 48, 32), name="a").video, picture(4)
        )
