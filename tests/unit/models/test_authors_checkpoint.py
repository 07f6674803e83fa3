"""Checkpoints of the authors in and out, against an independent network, and files that mean harm."""

import contextlib
import copyreg
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echodfkd.core.errors import InputError
from echodfkd.models.archives.torch_archive import read_state_dict
from echodfkd.models.students.authors_checkpoint import (
    authors_network,
    read_authors_checkpoint,
    write_authors_checkpoint,
)
from tests.helpers.authors import AuthorsNet, lightning_file, trained_net

SMALL = lightning_file(trained_net(1, 1, 2))
RAN: list[str] = []


def logits_of(net: torch.nn.Module, video: torch.Tensor) -> torch.Tensor:
    """(B, T, H, W) out of the independent network."""
    with torch.no_grad():
        return net.eval()(video.float()[:, :, None])[:, :, 0]


def parts(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compression) as target:
        for name, data in entries.items():
            target.writestr(name, data)
    return sink.getvalue()


def with_pickle(program: bytes) -> bytes:
    return archive({**parts(SMALL), "archive/data.pkl": program})


@pytest.mark.parametrize(("k", "n", "filters"), [(1, 1, 12), (1, 4, 3), (2, 2, 4), (3, 1, 12), (4, 3, 2)])
def test_an_import_gives_the_same_logits_and_an_export_the_same_file(k: int, n: int, filters: int) -> None:
    """1e-5: the input's half of each convolution is summed apart from the hidden half, in fp32; logits are near 1."""
    net = trained_net(k, n, filters, seed=10 * k + n)
    student = read_authors_checkpoint(lightning_file(net), name="x.ckpt")
    assert (student.blocks, student.layers, student.filters) == (k, n, filters)
    ours = authors_network(blocks=k, layers=n, filters=filters)
    ours.load_state_dict(student.weights)
    video = torch.randint(0, 256, (2, 6, 16, 24), dtype=torch.uint8)
    with torch.no_grad():
        got = ours.eval()(video).mask_logits[:, :, 0]
    expected = logits_of(net, video)
    assert expected.std() > 1e-3
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)

    exported = write_authors_checkpoint(ours.state_dict(), step=77)
    saved = torch.load(io.BytesIO(exported), weights_only=True)
    assert {"state_dict", "pytorch-lightning_version", "epoch", "global_step"} <= set(saved)
    want = {f"model.{key}": value for key, value in net.state_dict().items()}
    assert list(saved["state_dict"]) == list(want)
    for key, value in want.items():
        assert saved["state_dict"][key].dtype == value.dtype
        assert torch.equal(saved["state_dict"][key], value), key
    back = AuthorsNet(k, n, filters)
    back.load_state_dict({key.removeprefix("model."): value for key, value in saved["state_dict"].items()})
    assert torch.equal(logits_of(back, video), expected)


def test_a_folded_normalisation_differs_at_the_border_alone() -> None:
    """Why a normalised student cannot be exported: zero padding is the mean grey level there, and black here."""
    from echodfkd.models.students.build import STUDENT_INPUT_MEAN, STUDENT_INPUT_STD, build_student

    torch.manual_seed(3)
    ours = build_student(blocks=1, layers=1, filters=3, norm="batch").eval()
    weights = dict(ours.state_dict())
    name = "conv_lstm_blocks.0.conv_lstm_layers.0.cell.conv"
    weight, bias = weights[f"{name}.weight"].clone(), weights[f"{name}.bias"].clone()
    bias -= weight[:, 0].sum((1, 2)) * STUDENT_INPUT_MEAN / STUDENT_INPUT_STD
    weight[:, 0] /= STUDENT_INPUT_STD
    theirs = authors_network(blocks=1, layers=1, filters=3).eval()
    theirs.load_state_dict({**weights, f"{name}.weight": weight, f"{name}.bias": bias})
    video = torch.randint(0, 256, (1, 1, 12, 12))
    with torch.no_grad():
        gap = (ours(video).mask_logits - theirs(video).mask_logits)[0, 0, 0].abs()
    assert gap[1:-1, 1:-1].max() < 1e-5
    assert gap[0].max() > 1e-2


def test_the_same_tensors_as_torch_where_torch_reads_the_file() -> None:
    sink = io.BytesIO()
    wide = torch.arange(60, dtype=torch.float32).view(5, 12)
    tensors = {
        "view": wide[1:4, ::3].T,
        "half": torch.randn(3).half(),
        "bfloat": torch.randn(3).bfloat16(),
        "double": torch.randn(2, 2).double(),
        "count": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.randn(4)),
        "shared": wide,
        "empty": torch.zeros(0, 3),
    }
    torch.save({"state_dict": tensors}, sink)
    read = read_state_dict(sink.getvalue(), name="x")
    expected = torch.load(io.BytesIO(sink.getvalue()), weights_only=True)["state_dict"]
    assert list(read) == list(expected)
    for key, tensor in expected.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor), key


# --- programs in the pickle


def shout(text: str) -> str:
    """What no payload may reach."""
    RAN.append(text)
    return text


class Shouter:
    """A class whose every hook gives it away."""

    def __new__(cls, *args: object) -> "Shouter":
        shout("new")
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        shout("init")

    def __setstate__(self, state: object) -> None:
        shout("state")

    def append(self, value: object) -> None:
        shout("append")

    def extend(self, values: object) -> None:
        shout("extend")

    def __setitem__(self, key: object, value: object) -> None:
        shout("item")

    def __hash__(self) -> int:
        shout("hash")
        return 1


HERE = __name__.encode()
ME, CLASS = b"c" + HERE + b"\nshout\n", b"c" + HERE + b"\nShouter\n"
CODE = 2_000_007  # an extension code of this test alone
PAYLOADS: dict[str, bytes] = {
    "reduce": ME + b"(S'x'\ntR",
    "newobj": CLASS + b")\x81",
    "newobj_ex": CLASS + b")}\x92",
    "build": CLASS + b")\x81(I1\ntb",
    "inst": b"(S'x'\ni" + HERE + b"\nshout\n",
    "obj": b"(" + CLASS + b"S'x'\no",
    "ext": b"\x84" + struct.pack("<i", CODE) + b"(S'x'\ntR",
    "append": CLASS + b")\x81I1\na",
    "extend": CLASS + b")\x81(I1\ne",
    "item": CLASS + b")\x81I1\nI2\ns",
    "key": b"}" + CLASS + b")\x81I2\ns",
    "stack global": b"\x8c" + bytes([len(HERE)]) + HERE + b"\x8c\x05shout\x93(S'x'\ntR",
    "nested": ME + b"(" + ME + b"(S'inner'\ntRtR",
    "getattr": b"cbuiltins\ngetattr\n(" + CLASS + b"S'append'\ntR(NI1\ntR",
    "system": b"cos\nsystem\n(S'touch %s'\ntR",
    "exec": b'cbuiltins\nexec\n(S\'open("%s", "w")\'\ntR',
}


@pytest.fixture
def payload(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[bytes, Callable[[], bool]]]:
    """The opcodes, and whether they have run since the last question."""
    path = tmp_path / "ran"

    def ran() -> bool:
        found = bool(RAN) or path.exists()
        RAN.clear()
        path.unlink(missing_ok=True)
        return found

    copyreg.add_extension(__name__, "shout", CODE)
    yield PAYLOADS[request.param].replace(b"%s", os.fsencode(path)), ran
    copyreg.remove_extension(__name__, "shout", CODE)


@pytest.mark.parametrize("payload", PAYLOADS, indirect=True)
def test_nothing_that_a_file_says_is_run(payload: tuple[bytes, Callable[[], bool]]) -> None:
    """Each payload runs in pickle itself, which shows that it is one; here the tensors are read beside it."""
    code, ran = payload
    pickle.loads(b"\x80\x02" + code + b".")
    assert ran(), "the payload is harmless"

    honest = parts(SMALL)["archive/data.pkl"]
    assert honest[:2] == b"\x80\x02"
    student = read_authors_checkpoint(with_pickle(b"\x80\x02" + code + b"0" + honest[2:]), name="x")
    assert torch.equal(student.weights["output_layer.layer.bias"], trained_net(1, 1, 2).output_layer.layer.bias)
    assert not ran()

    head, evil = b"\x80\x02}X\x0a\x00\x00\x00state_dict", b"}X\x04\x00\x00\x00evil"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + code + b"K\x00K\x02\x85K\x01\x85NNtR"
    for program, words in (
        (head + code + b"s.", "x holds no dictionary 'state_dict'|x: a key of its tensors is not a name"),
        (head + evil + code + b"ss.", "x: evil is not a plain tensor"),
        (head + evil + rebuilt + b"ss.", "x: evil is not a plain tensor"),
    ):
        with pytest.raises(InputError, match=words):
            read_state_dict(with_pickle(program), name="x")
        assert not ran()


# --- files that promise more than they hold


def one_tensor(size: str, stride: str, *, numel: int = 6, offset: int = 0, key: str = "0") -> bytes:
    """A state dict of one float tensor ``t`` over a storage of six values, with what the pickle says of it."""
    program = (
        "\x80\x02}X\x0a\x00\x00\x00state_dict}X\x01\x00\x00\x00tctorch._utils\n_rebuild_tensor_v2\n"
        f"((S'storage'\nctorch\nFloatStorage\nS'{key}'\nS'cpu'\nI{numel}\ntQI{offset}\n({size}t({stride}tI00\nNtRss."
    )
    return archive({"a/data.pkl": program.encode("latin-1"), "a/data/0": bytes(24)})


def test_a_whole_view_is_read() -> None:
    assert read_state_dict(one_tensor("I2\nI3\n", "I3\nI1\n"), name="x")["t"].shape == (2, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (one_tensor("I7\n", "I1\n"), r"x: t of shape \(7,\) reaches outside its 6 stored values"),
        (one_tensor("I2\n", "I6\n"), "reaches outside"),
        (one_tensor("I2\n", "I1\n", offset=5), "reaches outside"),
        (one_tensor("I2\n", "I1\n", offset=-1), "reaches outside"),
        (one_tensor("I2\n", "I-1\n", offset=5), "reaches outside"),
        (one_tensor("I-2\nI-3\n", "I1\nI1\n"), "reaches outside"),
        (one_tensor("I1000000000000\n", "I0\n"), "reaches outside"),
        (one_tensor("I2\nI3\n", "I1\n"), "cannot be read as a checkpoint"),
        (one_tensor("I1\n" * 9, "I1\n" * 9), "x: t is not a plain tensor"),
        (one_tensor("I6\n", "I1\n", numel=7), "x: t needs 28 bytes at a/data/0, found 24"),
        (one_tensor("I6\n", "I1\n", numel=-6), "needs -24 bytes"),
        (one_tensor("I6\n", "I1\n", key="1"), "x: t needs 24 bytes at a/data/1, found None"),
        (one_tensor("I6\n", "I1\n", key="../data/0"), "found None"),
        (one_tensor("I" + "9" * 5000 + "\n", "I0\n"), "cannot be read as a checkpoint"),
        (archive(parts(SMALL), zipfile.ZIP_DEFLATED), "x: the entry archive/data.pkl is compressed"),
        (archive({"a/b": b""}), "x is a zip archive, but none that torch.save wrote: it has 0 data.pkl"),
        (archive({"a/data.pkl": b"", "b/data.pkl": b""}), "it has 2 data.pkl"),
        (archive({**parts(SMALL), "archive/byteorder": b"big"}), "another byte order"),
        (with_pickle(b""), "x cannot be read as a checkpoint"),
        (with_pickle(b"\x80\x02}."), "x holds no dictionary 'state_dict'"),
        (with_pickle(b"\x80\x02"), "x cannot be read as a checkpoint"),
        (with_pickle(b"\x80\x0200."), "x cannot be read as a checkpoint"),
        (with_pickle(b"\x80\x02" + b"\x8d" + struct.pack("<Q", 1 << 62) + b"."), "x cannot be read as a checkpoint"),
        (with_pickle(b"\x80\x02]r\xff\xff\xff\xff."), "x holds no dictionary"),  # a memo of 4 G entries is not made
        (with_pickle(b"\x80\x02})" + b"\x85" * 300_000 + b"Ns."), "x holds no dictionary"),  # a hash 300,000 deep
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "x is no zip archive: checkpoints written before torch 1.6"),
        (b"", "x is no zip archive"),
        (SMALL[:-100], "x cannot be read as a checkpoint"),
        (SMALL[:2000] + bytes(200) + SMALL[2200:], "x cannot be read as a checkpoint"),
    ],
)
def test_a_file_that_promises_more_than_it_holds_is_one_sentence(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_state_dict(data, name="x")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_two_entries_of_a_name_and_entries_that_overlap_are_refused() -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as target:
        target.writestr("a/data.pkl", b"")
        with pytest.warns(UserWarning, match="Duplicate"):
            target.writestr("a/data.pkl", b".")
    with pytest.raises(InputError, match="x has two entries of the same name"):
        read_state_dict(sink.getvalue(), name="x")
    entries = {f"a/data/{number}": b"" for number in range(50)}
    data = bytearray(archive({"a/data.pkl": bytes(3000), **entries}))
    first = data.index(b"PK\x01\x02")
    record = data.index(b"PK\x01\x02", first + 4)
    for _ in entries:  # every entry claims the big one's bytes
        data[record + 20 : record + 28] = data[first + 20 : first + 28]
        record = data.find(b"PK\x01\x02", record + 4)
    with pytest.raises(InputError, match=r"x: its entries claim 153000 bytes, the whole file has \d+"):
        read_state_dict(bytes(data), name="x")


def test_many_names_for_one_storage_do_not_outgrow_the_file() -> None:
    tensor = torch.zeros(1000)
    sink = io.BytesIO()
    torch.save({"state_dict": {str(number): tensor for number in range(200)}}, sink)
    with pytest.raises(InputError, match="its tensors claim more values than the whole file has bytes"):
        read_state_dict(sink.getvalue(), name="x")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_are_an_explained_error_or_tensors(data: st.DataObject) -> None:
    entries = parts(SMALL)
    whole = data.draw(st.booleans())
    target = bytearray(SMALL if whole else entries["archive/data.pkl"])
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(target) - 1))
        if data.draw(st.booleans()):
            target[place] = data.draw(st.integers(0, 255))
        else:
            del target[place : place + data.draw(st.integers(1, 40))]
        if not target:
            break
    with contextlib.suppress(InputError):
        read = read_state_dict(bytes(target) if whole else with_pickle(bytes(target)), name="x")
        assert all(isinstance(tensor, torch.Tensor) for tensor in read.values())


# --- other architectures


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("model.output_layer.layer.bias"), r"output_layer.layer.bias has shape none, expected \(1,\)"),
        (lambda s: s.update({"model.extra": torch.zeros(2)}), r"extra has shape \(2,\), expected none"),
        (lambda s: s.update({"head.weight": torch.zeros(2)}), "its key head.weight does not begin with 'model.'"),
        (
            lambda s: s.update({"model.output_layer.layer.weight": torch.zeros(2, 2, 1, 1)}),
            r"1 blocks of 1 layers and 2 filters: output_layer.layer.weight has shape \(2, 2, 1, 1\), expected",
        ),
        (lambda s: s.clear(), "it has no convolution conv_lstm_blocks.0"),
        (
            lambda s: s.update(
                {"model.conv_lstm_blocks.0.conv_lstm_layers.0.cell.conv.weight": torch.zeros(3, 2, 3, 3)}
            ),
            "filters 0, expected 1 .. 1024",
        ),
        (lambda s: s["model.output_layer.layer.bias"].fill_(float("nan")), "output_layer.layer.bias holds values that"),
    ],
)
def test_another_network_is_named_by_its_first_key(change: Callable[[dict], object], words: str) -> None:
    saved = torch.load(io.BytesIO(SMALL), weights_only=False)
    change(saved["state_dict"])
    sink = io.BytesIO()
    torch.save(saved, sink)
    with pytest.raises(InputError, match=words):
        read_authors_checkpoint(sink.getvalue(), name="x.ckpt")
