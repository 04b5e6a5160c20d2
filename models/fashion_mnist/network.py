"""MobileNetV3-Small, as in Howard et al., "Searching for MobileNetV3" (arXiv:1905.02244).

Written from the paper's table 2 in plain PyTorch. Two things differ, both because the input is
one grey 56-pixel picture with ten classes: one input channel, and a classifier of ten. Every
channel count is multiplied by the width and rounded to a multiple of eight as in the paper's
family of networks (arXiv:1801.04381, `_make_divisible` of the authors' code).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

CLASS_COUNT = 10
WIDTH = 0.6
DROPOUT = 0.2
NORM_EPSILON = 1e-3  # as in the authors' code; PyTorch's 1e-5 is close to float32's noise


@dataclass(frozen=True)
class BlockShape:
    """One row of table 2: sizes are channels at width 1."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    hard_swish: bool
    stride: int


BLOCKS: tuple[BlockShape, ...] = (
    BlockShape(3, 16, 16, True, False, 2),
    BlockShape(3, 72, 24, False, False, 2),
    BlockShape(3, 88, 24, False, False, 1),
    BlockShape(5, 96, 40, True, True, 2),
    BlockShape(5, 240, 40, True, True, 1),
    BlockShape(5, 240, 40, True, True, 1),
    BlockShape(5, 120, 48, True, True, 1),
    BlockShape(5, 144, 48, True, True, 1),
    BlockShape(5, 288, 96, True, True, 2),
    BlockShape(5, 576, 96, True, True, 1),
    BlockShape(5, 576, 96, True, True, 1),
)
STEM_CHANNELS, HEAD_CHANNELS, CLASSIFIER_CHANNELS = 16, 576, 1024


def rounded_channels(channels: float) -> int:
    """Return the multiple of eight next to `channels`, never more than a tenth below it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _activation(hard_swish: bool) -> nn.Module:
    return nn.Hardswish(inplace=True) if hard_swish else nn.ReLU(inplace=True)


def convolution(
    channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution with batch norm and no activation, padded to keep the size."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out, NORM_EPSILON),
    )


class SqueezeExcite(nn.Module):
    """Weighs channels by what the whole picture holds (section 5.3, a quarter squeezed)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = rounded_channels(channels / 4)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 of the same shape as x, [N, C, H, W]."""
        weights = torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        weights = self.gate(self.expand(weights))
        return x * weights


class Bottleneck(nn.Module):
    """Expand, filter by depth, squeeze and excite, project; residual where shapes allow."""

    def __init__(self, channels_in: int, shape: BlockShape, width: float) -> None:
        super().__init__()
        expanded = rounded_channels(shape.expanded * width)
        self.channels_out = rounded_channels(shape.out * width)
        self.residual = shape.stride == 1 and channels_in == self.channels_out
        layers: list[nn.Module] = []
        if expanded != channels_in:
            layers += [convolution(channels_in, expanded), _activation(shape.hard_swish)]
        layers += [
            convolution(expanded, expanded, shape.kernel, shape.stride, groups=expanded),
            _activation(shape.hard_swish),
        ]
        if shape.squeeze:
            layers.append(SqueezeExcite(expanded))
        layers.append(convolution(expanded, self.channels_out))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 [N, channels_out, H / stride, W / stride] for [N, C, H, W]."""
        y: Tensor = self.layers(x)
        if self.residual:
            y = x + y
        return y


class MobileNetV3Small(nn.Module):
    """The classifier: float32 [N, 1, 56, 56] in, float32 logits [N, 10] out."""

    def __init__(self, width: float = WIDTH, classes: int = CLASS_COUNT) -> None:
        super().__init__()
        channels = rounded_channels(STEM_CHANNELS * width)
        layers: list[nn.Module] = [convolution(1, channels, 3, 2), _activation(True)]
        for shape in BLOCKS:
            block = Bottleneck(channels, shape, width)
            layers.append(block)
            channels = block.channels_out
        head = rounded_channels(HEAD_CHANNELS * width)
        layers += [convolution(channels, head), _activation(True)]
        self.features = nn.Sequential(*layers)
        hidden = rounded_channels(CLASSIFIER_CHANNELS * width)
        self.classifier = nn.Sequential(
            nn.Linear(head, hidden),
            _activation(True),
            nn.Dropout(DROPOUT),
            nn.Linear(hidden, classes),
        )
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Return float32 logits [N, 10] for float32 [N, 1, 56, 56]."""
        pooled = self.features(image).mean((2, 3), keepdim=True)
        logits: Tensor = self.classifier(pooled.flatten(1))
        return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        # Not `kaiming_normal_`: it forgets the groups, and a depthwise filter would start so
        # small that batch norm's running variance needs thousands of steps to follow.
        fan_out = module.weight.numel() // (module.in_channels // module.groups) // module.groups
        nn.init.normal_(module.weight, 0, (2 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)


def parameter_count(network: nn.Module) -> int:
    """Return the number of learned values."""
    return sum(parameter.numel() for parameter in network.parameters())
