"""Training of the embedded judge: phantom frames with blackouts, captions that say what is still seen.

A caption is drawn from what a blackout leaves: with u the uncovered share of the ventricle and e the covered
area beside it in ventricle areas, the chances are

    LEFT VENTRICLE   1 - exp(-u / 0.4)
    WALL             the rest, times exp(-e / 0.2): the cavity is gone, the wall around it is not
    HIDDEN           what remains, times 1 - exp(-max(e - 0.3, 0) / 0.5): most of the heart is covered
    NOTHING          what remains: cavity and inner wall are gone, the rest of the heart is there

so that the caption never depends on more than the image shows, and the learned similarity is graded although
every caption is crisp. Loss: symmetric InfoNCE (Radford et al. 2021) in which every pair whose caption is
true of the image is a positive.

Legend: B images of a batch, N frames, T frames of a case, H rows, W columns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from echodfkd.metrics.ranks import spearman
from echodfkd.models.judge import JudgeTowers, MaskJudge, dilate, dilation_radius
from echodfkd.records import VideoClip
from echodfkd.training.degradations import erode, halve, random_mask, shift, wobble

CAPTIONS = (
    ("LEFT VENTRICLE", "THE LEFT VENTRICLE IS SEEN", "LV CAVITY VISIBLE"),
    ("WALL", "WALL AROUND A HIDDEN CAVITY", "MYOCARDIUM BUT NO CAVITY"),
    ("NOTHING", "NOTHING OF THE VENTRICLE", "NEITHER CAVITY NOR WALL"),
    ("HIDDEN", "THE HEART IS COVERED", "IMAGE COVERED"),
)
"""Ways to say each of the four findings, in the order of `finding_chances`."""
SIZES = ("SMALL LEFT VENTRICLE", "LARGE LEFT VENTRICLE")
"""True of untouched frames whose ventricle is among the smallest or largest third."""


@dataclass(frozen=True)
class FramePool:
    """Frames and truth to draw batches from: uint8 and bool (N, H, W), and areas (N,) as shares of the frame."""

    frames: torch.Tensor
    lv_mask: torch.Tensor

    @staticmethod
    def from_clips(clips: Sequence[VideoClip]) -> FramePool:
        """All frames of clips that carry truth."""
        labels = [clip.truth_labels for clip in clips]
        assert all(label is not None for label in labels)
        frames = torch.from_numpy(np.concatenate([clip.video for clip in clips]))
        return FramePool(frames, torch.from_numpy(np.concatenate(labels) == 1))  # type: ignore[arg-type]


def finding_chances(lv_mask: torch.Tensor, blackout: torch.Tensor) -> torch.Tensor:
    """Chances (B, 4) of the findings in `CAPTIONS`, see the module's formula. Masks are bool (B, H, W)."""
    area = lv_mask.sum((1, 2)).clamp(min=1).float()
    uncovered = (lv_mask & ~blackout).sum((1, 2)) / area
    excess = (blackout & ~lv_mask).sum((1, 2)) / area
    gone = torch.exp(-uncovered / 0.4)
    wall = torch.exp(-excess / 0.2)
    hidden = 1 - torch.exp(-(excess - 0.3).clamp(min=0) / 0.5)
    return torch.stack([1 - gone, gone * wall, gone * (1 - wall) * (1 - hidden), gone * (1 - wall) * hidden], dim=1)


def draw_batch(pool: FramePool, batch: int, generator: torch.Generator) -> tuple[torch.Tensor, list[str], torch.Tensor]:
    """Frames uint8 (B, H, W) after blackout, one caption each, and which captions are true of which image (B, B)."""
    pick = torch.randint(0, len(pool.frames), (batch,), generator=generator)
    frames, truth = pool.frames[pick], pool.lv_mask[pick]
    flip = torch.rand(batch, 1, 1, generator=generator) < 0.5
    frames, truth = torch.where(flip, frames.flip(2), frames), torch.where(flip, truth.flip(2), truth)
    parts = [random_mask(part, generator) for part in truth.split(8)]
    blackout = torch.cat(parts)
    grown = torch.rand(batch, 1, 1, generator=generator) < 0.5
    blackout = torch.where(grown, dilate(blackout, dilation_radius(*truth.shape[1:])), blackout)
    finding = torch.multinomial(finding_chances(truth, blackout), 1, generator=generator)[:, 0]
    share = truth.float().mean((1, 2))
    low, high = torch.quantile(share, torch.tensor([1 / 3, 2 / 3]))
    size = torch.where(share < low, 0, torch.where(share > high, 1, 2))
    size = torch.where((blackout & truth).any(2).any(1), 2, size)  # 2: nothing is said about size
    captions, kind = [], []
    for number, of_size in zip(finding.tolist(), size.tolist(), strict=True):
        say_size = of_size < 2 and float(torch.rand((), generator=generator)) < 0.3
        way = int(torch.randint(0, 3, (), generator=generator))
        captions.append(SIZES[of_size] if say_size else CAPTIONS[number][way])
        kind.append(4 + of_size if say_size else number)
    said = torch.tensor(kind)
    true_BB = (said[None, :] == finding[:, None]) | (said[None, :] == 4 + size[:, None])
    true_BB |= torch.eye(batch, dtype=torch.bool)
    return frames.masked_fill(blackout, 0), captions, true_BB


def contrastive_loss(
    image_BE: torch.Tensor, text_BE: torch.Tensor, scale: torch.Tensor, true_BB: torch.Tensor
) -> torch.Tensor:
    """Symmetric InfoNCE whose target spreads evenly over the true captions (images) of each image (caption)."""
    logits = scale * image_BE @ text_BE.T
    target = true_BB.float()
    rows = -(target / target.sum(1, keepdim=True) * F.log_softmax(logits, dim=1)).sum(1).mean()
    columns = -(target / target.sum(0, keepdim=True) * F.log_softmax(logits, dim=0)).sum(0).mean()
    return (rows + columns) / 2


def train_towers(
    pools: Sequence[FramePool],
    *,
    embedding: int,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    progress: Callable[[int, float], None],
) -> JudgeTowers:
    """Train both towers; AdamW with a one-cycle learning rate. Pools take turns at random, by their number."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    towers = JudgeTowers(embedding=embedding)
    optimizer = torch.optim.AdamW(towers.parameters(), lr=learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        pool = pools[int(torch.randint(0, len(pools), (), generator=generator))]
        frames, captions, true_BB = draw_batch(pool, batch, generator)
        gain = 0.8 + 0.4 * torch.rand(batch, 1, 1, generator=generator)
        seen = (frames * gain).clamp(max=255)
        scale = towers.log_scale.clamp(max=3.5).exp()
        wording = list(dict.fromkeys(captions))  # each wording once: the batch repeats them
        text_BE = towers.embed_captions(wording)[[wording.index(caption) for caption in captions]]
        loss = contrastive_loss(towers.embed_frames(seen), text_BE, scale, true_BB)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(towers.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(step, loss.item())
    return towers.eval()


def agreement(judge: MaskJudge, cases: Sequence[VideoClip], *, seed: int) -> dict[str, object]:
    """How the judge's score follows Dice over spoiled truth masks.

    Returns:
        Spearman's rho over all masks of all cases, its mean within a case, and mean score and Dice by degradation.
    """
    generator = torch.Generator().manual_seed(seed)
    scores, dices, names = [], [], []
    for clip in cases:
        assert clip.truth_labels is not None
        truth = torch.from_numpy(clip.truth_labels == 1)
        for name, mask in spoiled_masks(truth, generator).items():
            scores.append(judge.score(clip.video, mask.numpy())["judge_score"])
            dices.append(float(2 * (mask & truth).sum() / (mask.sum() + truth.sum())))
            names.append(name)
    score, dice = np.array(scores), np.array(dices)
    each = np.array_split(np.arange(len(score)), len(cases))
    table = {
        name: {
            "dice": round(float(dice[[n == name for n in names]].mean()), 3),
            "judge_score": round(float(score[[n == name for n in names]].mean()), 3),
        }
        for name in dict.fromkeys(names)
    }
    return {
        "spearman": round(spearman(score, dice), 4),
        "spearman_within_case": round(float(np.mean([spearman(score[i], dice[i]) for i in each])), 4),
        "masks": len(scores),
        "cases": len(cases),
        "by_degradation": table,
    }


def spoiled_masks(truth: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The truth and its degradations by name, bool (T, H, W); lengths are given in pixels of a 112-pixel frame."""
    scale = truth.shape[1] / 112

    def px(length: float) -> int:
        return max(1, round(length * scale))

    return {
        "truth": truth,
        "eroded 2": erode(truth, px(2)),
        "eroded 4": erode(truth, px(4)),
        "eroded 8": erode(truth, px(8)),
        "dilated 4": dilate(truth, px(4)),
        "dilated 8": dilate(truth, px(8)),
        "dilated 16": dilate(truth, px(16)),
        "shifted 4": shift(truth, px(3), px(3)),
        "shifted 12": shift(truth, -px(8), px(9)),
        "shifted 30": shift(truth, px(20), -px(22)),
        "wobbling 0.2": wobble(truth, 0.2, px(14), generator),
        "wobbling 0.5": wobble(truth, 0.5, px(14), generator),
        "three quarters": halve(truth, 0.75, 0.5),
        "half": halve(truth, 0.5, 2.0),
        "elsewhere": shift(truth, px(40), px(40)),
        "empty": torch.zeros_like(truth),
        "inverse": ~truth,
        "everything": torch.ones_like(truth),
    }


def stopwatch(steps: int, every: int) -> Callable[[int, float], None]:
    """A `progress` that prints a running mean of the loss every ``every`` steps."""
    start, losses = time.perf_counter(), []

    def show(step: int, loss: float) -> None:
        losses.append(loss)
        if (step + 1) % every == 0:
            recent = sum(losses[-every:]) / every
            print(f"step {step + 1}/{steps}  loss {recent:.3f}  {time.perf_counter() - start:.0f} s", flush=True)

    return show
