"""What is done to training pictures, and to no others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SHIFT_PX = 4
ERASE_SHARE = 0.2
ERASE_SIDE_PX = (8, 20)


def augmented(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return uint8 [N, 1, 56, 56]: each picture mirrored or not, shifted, perhaps covered.

    Arguments:
        pictures: uint8 [N, 1, 56, 56].
        generator: where the randomness comes from.
    """
    count, _, side, _ = pictures.shape
    mirror = torch.rand(count, generator=generator) < 0.5
    pictures = torch.where(mirror[:, None, None, None], pictures.flip(3), pictures)
    pictures = _shifted(pictures, generator)
    for row in torch.flatten(torch.nonzero(torch.rand(count, generator=generator) < ERASE_SHARE)):
        low, high = ERASE_SIDE_PX
        height, width = torch.randint(low, high + 1, (2,), generator=generator).tolist()
        top = int(torch.randint(side - height + 1, (1,), generator=generator))
        left = int(torch.randint(side - width + 1, (1,), generator=generator))
        noise = torch.randint(256, (height, width), generator=generator, dtype=torch.uint8)
        pictures[row, 0, top : top + height, left : left + width] = noise
    return pictures


def _shifted(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return the pictures, each moved by up to SHIFT_PX both ways, black moving in."""
    count, _, side, _ = pictures.shape
    padded = functional.pad(pictures, (SHIFT_PX,) * 4)
    offsets = torch.randint(2 * SHIFT_PX + 1, (2, count, 1), generator=generator)
    rows, columns = offsets + torch.arange(side)
    picture = torch.arange(count)[:, None, None]
    return padded[picture, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)
