"""EchoPrime, PanEcho and a user's ONNX model as judges, on small random files in their true formats."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from echodfkd.core.errors import ConfigError, InputError, RunError
from echodfkd.core.records import JUDGE_STEP
from echodfkd.evaluation.judge import read_case
from echodfkd.models.judges import echoprime, panecho
from echodfkd.models.judges.build import load_judge
from echodfkd.models.judges.onnx_judge import OnnxTowers
from echodfkd.models.judges.pixels import window_of_frame, windows
from echodfkd.models.judges.reading import ReadingJudge
from echodfkd.models.teachers.torchvision_guard import import_torchvision
from tests.helpers.echonet import beating_clip
from tests.helpers.judges import write_onnx_judge

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "wall", "nothing", "left", "ventricle", "##s"]


@pytest.fixture(scope="module")
def libraries():
    torchvision = import_torchvision()
    return torchvision, pytest.importorskip("transformers")


class SmallVideo(nn.Module):
    """Stands for MViTv2-S: clips (N, 3, 16, S, S) -> (N, E)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 16, width)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        assert clips.shape[1:] == (3, 16, 224, 224)
        return self.head(clips.mean((3, 4)).flatten(1))


def save_echoprime(transformers, folder, video: nn.Module) -> nn.Module:
    """The release's two files, of small networks; returns the text tower as its authors build it."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=32,
        max_position_embeddings=24,
    )  # fmt: skip
    text = nn.Module()
    text.backbone = transformers.BertForMaskedLM(config)
    text.text_projection = nn.Linear(64, 8)
    torch.save(video.state_dict(), folder / "echo_prime_encoder.pt")
    # older releases of transformers save this table as well
    old = {"backbone.bert.embeddings.position_ids": torch.arange(24)[None]}
    torch.save({**text.state_dict(), **old}, folder / "echo_prime_text_encoder.pt")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return text.eval()


def test_echoprime_s_text_tower_is_that_of_its_files(libraries, tmp_path):
    _, transformers = libraries
    text = save_echoprime(transformers, tmp_path, SmallVideo(8))
    towers = echoprime.load_towers(str(tmp_path), "cpu", precision="fp32", build_video=SmallVideo)
    ids = {"WALLS": [2, 5, 9, 3], "left ventricle": [2, 7, 8, 3]}
    with torch.inference_mode():
        found = towers.embed_captions([*ids, "nothing"])
        for row, tokens in zip(found, [*ids.values(), [2, 6, 3]], strict=True):
            # as the authors ask it: filled to a fixed length, behind a mask
            padded = torch.tensor([tokens + [0] * (24 - len(tokens))])
            mask = (torch.arange(24) < len(tokens))[None].long()
            out = text.backbone(input_ids=padded, attention_mask=mask, output_hidden_states=True)
            wanted = text.text_projection(out.hidden_states[-1][:, 0])[0]
            torch.testing.assert_close(row, wanted / wanted.norm(), atol=1e-6, rtol=1e-5)


def test_echoprime_s_pixels_are_those_of_its_authors(libraries):
    cv2 = pytest.importorskip("cv2")
    towers = SimpleNamespace()
    frames = np.random.default_rng(0).integers(0, 256, (2, 140, 112), dtype=np.uint8)
    found = echoprime.EchoPrimeTowers.prepare(towers, torch.from_numpy(frames))
    square = frames[:, 14:126]  # crop_and_scale: the middle square, then a tenth of each side, then cv2's cubic
    grey = np.stack([cv2.resize(one[11:-11, 11:-11], (224, 224), interpolation=cv2.INTER_CUBIC) for one in square])
    mean, std = np.array(echoprime.PIXEL_MEAN), np.array(echoprime.PIXEL_STD)
    wanted = (grey[:, None] - mean[:, None, None]) / std[:, None, None]
    # cv2 works in fixed point: a level (1 / 46) here and there
    np.testing.assert_allclose(found.numpy(), wanted, atol=1.01 / 46)


def test_every_frame_has_the_embedding_of_its_clip():
    """Frame t belongs to the clip of every second frame that holds it; a short video ends in zeros."""
    seen = []

    class Recorder(SmallVideo):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            seen.append(clips[:, 0, :, 0, 0])
            return clips[:, 0, :8, 0, 0] + 10  # no two clips alike

    towers = echoprime.EchoPrimeTowers(Recorder(8), nn.Identity(), bf16=False)
    frames = torch.arange(70, dtype=torch.uint8)[:, None, None].expand(70, 16, 16).contiguous()
    levels = towers.prepare(frames)[:, 0, 0, 0]
    found = towers.embed_frames(frames)
    clips = torch.cat(seen)
    starts = [0, 32, 38, 1, 33, 39]
    for clip, start in zip(clips, starts, strict=True):
        torch.testing.assert_close(clip, levels[start : start + 32 : 2])
    for frame, clip in ((0, 0), (1, 3), (37, 4), (38, 2), (69, 5)):
        wanted = clips[clip][:8] + 10
        torch.testing.assert_close(found[frame], wanted / wanted.norm())
    seen.clear()
    towers.embed_frames(frames[:5])
    assert [(clip != 0).sum() for clip in torch.cat(seen)] == [3, 2]


@pytest.mark.parametrize(("frames", "length", "starts"), [(48, 16, [0, 16, 32]), (20, 16, [0, 4]), (3, 4, [0])])
def test_windows_cover_a_video(frames, length, starts):
    held = windows(frames, length)
    assert held[:, 0].tolist() == starts
    assert set(held.ravel()) == set(range(frames))
    assert all(frame in held[place] for frame, place in enumerate(window_of_frame(frames, length)))


def test_echoprime_judges_masks_and_reads_no_phase(libraries, tmp_path, monkeypatch):
    save_echoprime(libraries[1], tmp_path, SmallVideo(8))
    monkeypatch.setattr(echoprime, "_mvit", SmallVideo)
    judge = load_judge("echoprime", weights=str(tmp_path), captions=str(tmp_path / "kept"))
    case = beating_clip("0XA0", num_frames=40, size=16)
    scores = judge.score(case.video, case.truth_labels == 1)
    assert set(scores) == {"judge_score", "judge_wall", "judge_nothing", "judge_left_ventricle"}
    rows = read_case(judge, case, teacher_id="t")
    assert [(row.metric, row.step) for row in rows] == [("judge_truth_score", JUDGE_STEP), ("judge_ef", JUDGE_STEP)]
    assert rows[0].value == scores["judge_score"]
    assert 0 <= rows[1].value <= 100
    monkeypatch.setattr(echoprime.EchoPrimeTowers, "_run_text", lambda self, captions: pytest.fail("read again"))
    again = load_judge("echoprime", weights=str(tmp_path), captions=str(tmp_path / "kept"))
    assert again.score(case.video, case.truth_labels == 1) == scores


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "vocab.txt").unlink(), r"lacks vocab.txt; it is published at https://github.com/echonet"),
        (lambda f: (f / "vocab.txt").write_text("a\nb\n"), "has 2 words, echo_prime_text_encoder.pt knows 10"),
        (lambda f: torch.save({"a": torch.zeros(1)}, f / "echo_prime_text_encoder.pt"), "it lacks 'backbone.emb"),
        (lambda f: torch.save({"a": torch.zeros(1)}, f / "echo_prime_encoder.pt"), "does not fit the video tower"),
        (lambda f: (f / "echo_prime_encoder.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR."), "is no zip archive"),
    ],
)
def test_files_that_are_not_echoprime_s_are_refused(libraries, tmp_path, change, words):
    save_echoprime(libraries[1], tmp_path, SmallVideo(8))
    change(tmp_path)
    with pytest.raises(InputError, match=r"evaluation.judge_weights: .*" + words):
        echoprime.load_towers(str(tmp_path), "cpu", precision="fp32", build_video=SmallVideo)


def small_convnext():
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    network = ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)])
    network.classifier[-1] = nn.Identity()
    return network, 16


def save_panecho(folder, seed: int = 0) -> panecho.PanEcho:
    """The release's file, of a small image network: all tasks' heads and the table of places are in it."""
    torch.manual_seed(seed)
    network = panecho.PanEcho(*small_convnext()).eval()
    state = {
        **network.state_dict(),
        "encoder.time_encoder.pe": torch.zeros(1, 16, 16),
        "LVSize_head.1.weight": torch.zeros(3, 16),
    }
    torch.save({"weights": state, "epoch": 3, "optimizer": {"lr": 1.0}}, folder / "panecho.pt")
    return network


def test_panecho_reads_what_its_own_layers_give(libraries, tmp_path, monkeypatch):
    """Against the network by hand: torch's layers one by one, the table of places by its formula."""
    network = save_panecho(tmp_path)
    monkeypatch.setattr(panecho, "_convnext", small_convnext)
    judge = load_judge("panecho", weights=str(tmp_path))
    assert judge.judge_id.startswith("panecho-")
    video = np.random.default_rng(1).integers(0, 256, (16, 256, 256), dtype=np.uint8)
    x = torch.from_numpy(video[:, 16:240, 16:240])[:, None].float().div(255).expand(-1, 3, -1, -1)
    x = (x - torch.tensor(panecho.MEAN).view(3, 1, 1)) / torch.tensor(panecho.STD).view(3, 1, 1)
    places = torch.tensor(
        [
            [(np.sin, np.cos)[column % 2](frame / 10000 ** (column // 2 * 2 / 16)) for column in range(16)]
            for frame in range(16)
        ],
        dtype=torch.float32,
    )
    with torch.inference_mode():
        y = network.encoder.encoder["model"](x)[None] + places
        for layer in network.encoder.transformer.layers:
            y = layer.norm1(y + layer.self_attn(y, y, y)[0])
            y = layer.norm2(y + layer.linear2(torch.relu(layer.linear1(y))))
        wanted = float(network.EF_head[1](y.mean(1)))
    assert judge.read_video(video).ef_percent == pytest.approx(wanted, abs=1e-4)
    two = np.concatenate([video, video[::-1]])
    clips = [
        judge.read_video(part).ef_percent for part in (np.ascontiguousarray(two[:16]), np.ascontiguousarray(two[16:]))
    ]
    assert judge.read_video(two).ef_percent == pytest.approx(np.mean(clips), abs=1e-4)
    assert judge.read_video(two).cycle is None


def test_a_mask_that_does_not_beat_loses_the_whole_fraction():
    judge = panecho.PanEchoJudge(None, judge_id="fake")
    case = beating_clip("0XA0", num_frames=64, size=64)
    truth = case.truth_labels == 1
    volume = (truth.sum((1, 2)) / np.pi) ** 1.5  # circles: the sphere of each
    ef = 100 * (1 - np.percentile(volume, 5) / np.percentile(volume, 95))
    judge.read_video = lambda video: SimpleNamespace(ef_percent=ef)
    assert judge.score(case.video, truth)["judge_score"] == pytest.approx(0, abs=0.03)  # pixels of a small circle
    frozen = np.repeat(truth[:1], len(truth), axis=0)
    for still in (frozen, np.zeros_like(truth)):
        assert judge.score(case.video, still)["judge_score"] == pytest.approx(-ef / 100)


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ({"state": {}}, "holds no dictionary 'weights'"),
        ({"weights": {"a": torch.zeros(1)}}, "does not fit the PanEcho network"),
    ],
)
def test_files_that_are_not_panecho_s_are_refused(libraries, tmp_path, saved, words):
    torch.save(saved, tmp_path / "panecho.pt")
    with pytest.raises(InputError, match=r"evaluation.judge_weights: .*panecho.pt.*" + words):
        panecho.load_network(str(tmp_path), "cpu", build_encoder=small_convnext)


def test_a_user_s_onnx_model_judges_as_its_matrix_does(tmp_path):
    matrix = write_onnx_judge(tmp_path)
    judge = load_judge("onnx", weights=str(tmp_path))
    assert isinstance(judge, ReadingJudge)
    frames = np.random.default_rng(0).integers(1, 256, (20, 8, 8), dtype=np.uint8)  # more than one pass
    x = torch.from_numpy(frames)[:, None].float().div(255).expand(-1, 3, -1, -1)
    x = (x - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    wanted = nn.functional.normalize(x.flatten(1) @ matrix, dim=1)
    towers = OnnxTowers(str(tmp_path), "cpu")
    torch.testing.assert_close(towers.embed_frames(torch.from_numpy(frames)), wanted, atol=1e-5, rtol=1e-4)
    from safetensors.torch import load_file

    wall = load_file(tmp_path / "captions.safetensors")["WALL"]
    score = judge.score(frames, np.zeros(frames.shape, bool))
    assert score["judge_wall"] == pytest.approx(float((wanted @ (wall / wall.norm())).mean()), abs=1e-5)
    assert "judge_motion" in score


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"side": 0}, "must hold side"),
        ({"more": 1}, "must hold side"),
        ({"std": [1, 1, 0]}, "std must be three numbers above 0, got"),
        ({"mean": [1, 1]}, "mean must be three numbers, got"),
    ],
)
def test_settings_of_an_onnx_judge_are_checked(tmp_path, change, words):
    write_onnx_judge(tmp_path, change=change)
    with pytest.raises(InputError, match=r"evaluation.judge_weights: .*judge.json.*" + words):
        OnnxTowers(str(tmp_path), "cpu")


def test_an_onnx_judge_without_a_caption_or_of_another_width_is_refused(tmp_path):
    write_onnx_judge(tmp_path)
    towers = OnnxTowers(str(tmp_path), "cpu")
    with pytest.raises(InputError, match=r"captions.safetensors lacks 'DOOR' \(1 of 2 captions\)"):
        towers.embed_captions(["WALL", "DOOR"])
    for captions in ({}, {"WALL": torch.tensor(1.0)}, {"WALL": torch.ones(4), "NOTHING": torch.ones(5)},
                     {"WALL": torch.full((4,), torch.nan)}, {"WALL": torch.zeros(4)}):  # fmt: skip
        save_file(captions, tmp_path / "captions.safetensors")
        with pytest.raises(InputError, match="must hold finite vectors of one length, none of them zero"):
            OnnxTowers(str(tmp_path), "cpu")
    save_file({"WALL": torch.zeros(5) + 1}, tmp_path / "captions.safetensors")
    with pytest.raises(RunError, match=r"gave \(2, 4\) for 2 frames, expected \(2, 5\)"):
        OnnxTowers(str(tmp_path), "cpu").embed_frames(torch.zeros(2, 8, 8, dtype=torch.uint8))
    (tmp_path / "image.onnx").unlink()
    with pytest.raises(InputError, match=r"lacks image.onnx$"):
        OnnxTowers(str(tmp_path), "cpu")


@pytest.mark.parametrize("kind", ["echoprime", "panecho", "onnx"])
def test_judges_of_others_need_a_folder(kind):
    from echodfkd.config.file import load_config

    with pytest.raises(ConfigError, match=f"evaluation.judge_weights: empty, but evaluation.judge is {kind}"):
        load_config(None, ["students.a.blocks=1", f"evaluation.judge={kind}"])
    with pytest.raises(ConfigError, match=r"evaluation.judge_precision: set, but evaluation.judge is onnx; it is for"):
        load_config(None, ["students.a.blocks=1", "evaluation={judge: onnx, judge_weights: /w, judge_precision: bf16}"])


@pytest.mark.slow
def test_the_published_sizes_load_and_run(libraries, tmp_path):
    torch.manual_seed(0)
    _, transformers = libraries
    video_tower = echoprime._mvit(8)
    assert sum(p.numel() for p in video_tower.parameters()) == 34_537_744 - 769 * 400 + 769 * 8
    save_echoprime(transformers, tmp_path, video_tower)
    network = panecho.PanEcho(*panecho._convnext())
    assert (
        sum(p.numel() for p in network.encoder.encoder.parameters()) == 28_589_128 - 769_000
    )  # torchvision's own count
    torch.save({"weights": network.state_dict()}, tmp_path / "panecho.pt")
    video = np.random.default_rng(0).integers(0, 256, (16, 112, 112), dtype=np.uint8)
    prime = load_judge("echoprime", weights=str(tmp_path))
    assert np.isfinite(prime.score(video, video > 200)["judge_score"])
    assert np.isfinite(load_judge("panecho", weights=str(tmp_path)).read_video(video).ef_percent)
