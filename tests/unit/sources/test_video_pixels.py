"""A window has the pixels of the whole file, in every format, and the container is believed."""

import av
import cv2
import numpy as np
import pytest

from echodfkd.core.errors import ClipError
from echodfkd.sources.video.container import CODECS
from echodfkd.sources.video.decode import decode_video
from tests.helpers.avi import GREYS, avi_bytes, dib_chunks, palette_change, rle8_chunks
from tests.helpers.video import encode

FRAMES = 5


def moving(num_frames=FRAMES, height=16, width=24):
    """uint8 (T, H, W): a ramp that moves, noise, and a bright mark at the top left, as no turn leaves it."""
    row = np.linspace(5, 250, width).round().astype(np.uint8)
    video = np.stack([np.tile(np.roll(row, 5 * t), (height, 1)) for t in range(num_frames)])
    video[:, height // 2 :] ^= np.random.default_rng(0).integers(0, 8, video[:, height // 2 :].shape, dtype=np.uint8)
    video[:, :5, :8] = 255
    return video


def same_in_every_window(data):
    whole = decode_video(data, name="a")
    count = len(whole.video)
    for first, stop in [(0, 1), (1, 3), (count - 1, count), (0, count)]:
        part = decode_video(data, name="a", window=lambda frames, fps, window=(first, stop): window)
        np.testing.assert_array_equal(part.video[first:stop], whole.video[first:stop], err_msg=f"{first} .. {stop}")
        assert (part.fps, part.header_frames, part.pixel_aspect) == (whole.fps, whole.header_frames, whole.pixel_aspect)
    return whole


def encoders():
    """Every (encoder, pixel format) with which FFmpeg here writes a codec that is read."""
    for name in sorted(av.codecs_available):
        try:
            codec = av.Codec(name, "w")
        except ValueError:  # only a decoder
            continue
        if codec.type == "video" and codec.canonical_name in CODECS and codec.name == name and not hardware(name):
            known = [form.name for form in codec.video_formats or ()]
            for pixels in [form for form in known if not form.endswith(("f16le", "f32le"))] or [
                "gray",
                "bgr24",
                "bgra",
                "rgb555le",
                "yuv420p",
                "yuyv422",
            ]:
                yield name, pixels


def hardware(name):
    return name.endswith(("_nvenc", "_qsv", "_amf", "_v4l2m2m", "_vaapi"))


@pytest.mark.parametrize(("codec", "pixels"), list(encoders()))
def test_a_window_is_a_slice_of_the_whole_file(codec, pixels):
    read = 0
    variants = [("avi", {}), ("mov", {"g": "1"}), ("mov", {"g": "4", "bf": "2"}), ("avi", {"g": "3", "bf": "2"})]
    for layout, options in variants if codec in ("mpeg4", "libx264") else variants[:2]:
        try:
            data = encode(moving(), codec, pixels, layout=layout, options={"strict": "unofficial", **options})
        except (av.FFmpegError, ValueError):  # this container does not hold these pixels
            continue
        try:
            found = same_in_every_window(data)
        except ClipError:
            if codec != "rawvideo":  # FFmpeg reads only some of the raw pixels that it writes
                raise
            continue
        read += 1
        assert len(found.video) == FRAMES
        error = np.abs(found.video.astype(int) - moving())
        assert error.mean() < 12, (layout, options, error.mean())  # lossy codecs, few bits: not another picture
    assert read, "no container holds these pixels"


PICTURE = moving(height=21, width=30)  # rows of 30 bytes are padded
INVERTED = avi_bytes(dib_chunks(255 - PICTURE), 21, 30, 8, palette=GREYS[::-1])
COLOURS = np.repeat(PICTURE[..., None], 4, 3)


@pytest.mark.parametrize(
    "data",
    [
        avi_bytes(dib_chunks(PICTURE), 21, 30, 8, palette=GREYS),
        avi_bytes(dib_chunks(PICTURE, top_down=True), 21, 30, 8, palette=GREYS, top_down=True),
        avi_bytes(dib_chunks(PICTURE), 21, 30, 8, palette=GREYS, index=False),
        avi_bytes(dib_chunks(PICTURE), 21, 30, 8, palette=GREYS, codec=b"DIB "),
        INVERTED,
        avi_bytes(dib_chunks(COLOURS[..., :3]), 21, 30, 24),
        avi_bytes(dib_chunks(COLOURS[..., :3], top_down=True), 21, 30, 24, top_down=True),
        avi_bytes(dib_chunks(COLOURS * np.uint8([1, 1, 1, 0])), 21, 30, 32),
    ],
    ids=["8 bits", "top down", "no index", "DIB", "inverted palette", "24 bits", "24 bits top down", "32 bits"],
)
def test_uncompressed_files_of_other_programs(data):
    np.testing.assert_array_equal(same_in_every_window(data).video, PICTURE)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_pixels_of_a_few_bits(bits):
    numbers = PICTURE >> (8 - bits)
    levels = np.linspace(255, 0, 1 << bits).round().astype(np.uint8)
    split = (numbers[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    packed = np.packbits(split.reshape(*PICTURE.shape[:2], -1), axis=2)
    data = avi_bytes(dib_chunks(packed), 21, 30, bits, palette=np.repeat(levels[:, None], 3, 1))
    np.testing.assert_array_equal(same_in_every_window(data).video, levels[numbers])


def test_numbers_of_colours_without_a_palette_are_refused():
    with pytest.raises(
        ClipError, match=r"^a has numbers of colours for pixels, and no palette that says which they are$"
    ):
        decode_video(avi_bytes(dib_chunks(PICTURE), 21, 30, 8), name="a")


def test_a_palette_may_change_inside_a_file():
    data = avi_bytes(dib_chunks(PICTURE), 21, 30, 8, palette=GREYS, changes={3: palette_change(GREYS[::-1])})
    found = same_in_every_window(data).video
    np.testing.assert_array_equal(found, np.concatenate([PICTURE[:3], 255 - PICTURE[3:]]))


@pytest.mark.parametrize("place", ["before the scan", "after it"])
def test_a_setting_of_one_picture_may_last(place):
    """FFmpeg takes the range of its levels from a comment, and keeps it."""
    comment = b"\xff\xfe\x00\x0bCS=ITU601"
    first, *others = jpegs(PICTURE)
    marked = first[:2] + comment + first[2:] if place == "before the scan" else first[:-2] + comment + first[-2:]
    motion = {"codec": b"MJPG", "compression": int.from_bytes(b"MJPG", "little")}
    for pictures in ([marked, *others], [first, marked, *others[1:]], [first, *others]):
        same_in_every_window(avi_bytes(pictures, 21, 30, 24, **motion))


def test_a_picture_that_is_too_short_is_refused():
    chunks = dib_chunks(PICTURE)
    chunks[2] = chunks[2][:400]
    data = avi_bytes(chunks, 21, 30, 8, palette=GREYS)
    for window in (None, lambda frames, fps: (0, 1)):
        with pytest.raises(ClipError, match=r"^a has 400 bytes in frame 2, too few for 30 x 21 pixels$"):
            decode_video(data, name="a", window=window)


def test_a_jpeg_that_ends_early_is_refused():
    pictures = jpegs(PICTURE)
    pictures[2] = pictures[2][: len(pictures[2]) - 150]
    data = avi_bytes(pictures, 21, 30, 24, codec=b"MJPG", compression=int.from_bytes(b"MJPG", "little"))
    with pytest.raises(ClipError, match=r"^a has 2 readable frames, its header says 5 \(Invalid data"):
        decode_video(data, name="a")
    with pytest.raises(ClipError, match=r"^a cannot be read at frame 2: Invalid data"):
        decode_video(data, name="a", window=lambda frames, fps: (1, 3))


def test_run_lengths_are_refused_by_name():
    data = avi_bytes(rle8_chunks(PICTURE), 21, 30, 8, palette=GREYS, compression=1)
    with pytest.raises(ClipError, match=r"^a is encoded as msrle; expected one of mjpeg, mpeg4, h264, rawvideo, ffv1$"):
        decode_video(data, name="a")


def jpegs(video):
    return [cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes() for frame in video]


def without(picture, marker):
    """A JPEG without its segments of this marker."""
    at = 2
    while picture[at + 1] != 0xDA:
        length = 2 + int.from_bytes(picture[at + 2 : at + 4], "big")
        if picture[at + 1] == marker:
            picture = picture[:at] + picture[at + length :]
        else:
            at += length
    return picture


@pytest.mark.parametrize("marker", [0xDB, 0xC4], ids=["quantisation", "Huffman"])
def test_jpeg_tables_may_stand_in_the_first_picture_only(marker):
    first, *others = jpegs(PICTURE)
    whole = avi_bytes([first, *others], 21, 30, 24, codec=b"MJPG", compression=int.from_bytes(b"MJPG", "little"))
    brief = avi_bytes(
        [first, *(without(other, marker) for other in others)],
        21, 30, 24, codec=b"MJPG", compression=int.from_bytes(b"MJPG", "little"),
    )  # fmt: skip
    np.testing.assert_array_equal(same_in_every_window(brief).video, same_in_every_window(whole).video)
