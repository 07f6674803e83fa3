"""Training of the embedded judge, on phantom frames and captions of them.

Half of a batch are whole frames: their captions are about the patient, the beat and the picture
(`echodfkd.training.judge.captions`). The other half have blackouts, and captions of the visible anatomy: with u the
uncovered share of the ventricle and e the covered area beside it in ventricle areas, the chances are

    LEFT VENTRICLE   1 - exp(-u / 0.4)
    WALL             the rest, times exp(-e / 0.2): the cavity is gone, the wall around it is not
    HIDDEN           the rest, times 1 - exp(-max(e - 0.3, 0) / 0.5): most of the heart is covered
    NOTHING          the rest: cavity and inner wall are gone, the rest of the heart is there

so that the caption depends only on visible things, and the learned similarity is graded although every caption is
crisp. Loss: for each kind of caption the symmetric InfoNCE of CLIP (Radford et al. 2021), in which a
pair is as positive as its caption is true of the image.

Legend: B images of a batch, N captions, E embedding width, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from echodfkd.core.counter import Counter
from echodfkd.models.judges.degradations import random_mask
from echodfkd.models.judges.embedded import JudgeTowers
from echodfkd.models.judges.protocol import dilate, dilation_radius
from echodfkd.training.judge.captions import CHOICES, EF, NUMBERS, draw_choice, draw_findings, draw_numbers
from echodfkd.training.judge.patients import FramePool

EF_CAPTIONS = 40
"""Captions of the ejection fraction in a step, of all 202."""
NUMBER_KINDS, NUMBER_CAPTIONS = 2, 12
"""Further kinds of numbers in a step, and captions of each."""


def finding_chances(lv_mask: torch.Tensor, blackout: torch.Tensor) -> torch.Tensor:
    """Chances (B, 4) of `judge_captions.FINDINGS`, see the module's formula. Masks are bool (B, H, W)."""
    area = lv_mask.sum((1, 2)).clamp(min=1).float()
    uncovered = (lv_mask & ~blackout).sum((1, 2)) / area
    excess = (blackout & ~lv_mask).sum((1, 2)) / area
    gone = torch.exp(-uncovered / 0.4)
    wall = torch.exp(-excess / 0.2)
    hidden = 1 - torch.exp(-(excess - 0.3).clamp(min=0) / 0.5)
    return torch.stack([1 - gone, gone * wall, gone * (1 - wall) * (1 - hidden), gone * (1 - wall) * hidden], dim=1)


def draw_blackouts(truth: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blackouts like masks of good and bad students, some of them dilated: bool (B, H, W), as ``truth``."""
    blackout = torch.cat([random_mask(part, generator) for part in truth.split(8)])
    grown = torch.rand(len(truth), 1, 1, generator=generator) < 0.5
    return torch.where(grown, dilate(blackout, dilation_radius(*truth.shape[1:])), blackout)


def contrastive_loss(
    image_BE: torch.Tensor, text_NE: torch.Tensor, scale: torch.Tensor, true_BN: torch.Tensor
) -> torch.Tensor:
    """Symmetric InfoNCE between images and captions of one kind.

    Args:
        image_BE: unit vectors.
        text_NE: unit vectors.
        scale: one over the temperature.
        true_BN: how true each caption is of each image, 0..1. The target spreads over the captions (images) of each
            image (caption) in proportion; captions that are true of no image are only negatives.
    """
    logits = scale * image_BE @ text_NE.T
    target = true_BN.float()
    rows = -(target * F.log_softmax(logits, dim=1)).sum(1) / target.sum(1).clamp(min=1e-6)
    share = target.sum(0)
    columns = -(target * F.log_softmax(logits, dim=0)).sum(0) / share.clamp(min=1e-6)
    told = (share > 1e-2).float()
    return (rows.mean() + (columns * told).sum() / told.sum().clamp(min=1)) / 2


def batch_loss(towers: JudgeTowers, pool: FramePool, batch: int, generator: torch.Generator) -> torch.Tensor:
    """Mean loss over the kinds of captions of a batch: half of it whole frames, half with blackouts."""
    whole, covered = pool.draw(batch // 2, generator), pool.draw(batch - batch // 2, generator)
    blackout = draw_blackouts(covered.lv_mask, generator)
    frames = torch.cat([whole.frames, covered.frames.masked_fill(blackout, 0)])
    gain = 0.8 + 0.4 * torch.rand(batch, 1, 1, generator=generator)
    image = towers.embed_frames((frames * gain).clamp(max=255))
    bare = torch.zeros_like(whole.lv_mask)
    chances = finding_chances(torch.cat([whole.lv_mask, covered.lv_mask]), torch.cat([bare, blackout]))
    others = torch.randperm(len(NUMBERS), generator=generator)[:NUMBER_KINDS].tolist()
    drawn = [draw_findings(chances, generator)]
    drawn += [draw_choice(kind, whole.facts[kind.fact]) for kind in CHOICES]
    drawn += [draw_numbers(EF, whole.facts[EF.fact], EF_CAPTIONS, generator)]
    for kind in (NUMBERS[other] for other in others):
        drawn.append(draw_numbers(kind, whole.facts[kind.fact], NUMBER_CAPTIONS, generator))
    texts = towers.embed_captions([caption for captions, _ in drawn for caption in captions])
    scale = towers.log_scale.clamp(max=3.5).exp()
    losses = [
        contrastive_loss(image[: len(true)], text, scale, true)
        for text, (_, true) in zip(texts.split([len(captions) for captions, _ in drawn]), drawn, strict=True)
    ]
    return torch.stack(losses).mean()


def train_towers(
    towers: JudgeTowers,
    pools: Sequence[FramePool],
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    say: Callable[[str], None],
) -> JudgeTowers:
    """Train both towers; AdamW with a one-cycle learning rate. Pools take turns at random, by their number."""
    generator = torch.Generator().manual_seed(seed)
    towers.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(towers.parameters(), lr=learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    with Counter("steps", steps, say) as counter:
        for step in range(steps):
            pool = pools[int(torch.randint(0, len(pools), (), generator=generator))]
            loss = batch_loss(towers, pool, batch, generator)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(towers.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            counter.show(step + 1, f"loss {loss.item():.3f}")
    return towers.eval()
