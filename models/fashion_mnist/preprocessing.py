"""From a grey picture to the tensor the model takes.

The device does the same with Pillow and numpy, so nothing here may use anything else: a
training set that was resized by another library is a different data set.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

LABELS: tuple[str, ...] = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)
"""Class names in the order of the data set's label numbers."""

SIDE_PX = 56
MEAN = 0.2860
STD = 0.3530
"""Mean and standard deviation of the 60,000 training images on a scale from 0 to 1."""

FloatArray = npt.NDArray[np.float32]
RealArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]


def resized(picture: Image.Image) -> ByteArray:
    """Return uint8 [56, 56], the picture as grey, resized by Pillow's bilinear filter."""
    grey = picture if picture.mode == "L" else picture.convert("L")
    return np.asarray(grey.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR))


def normalised(pixels: ByteArray) -> FloatArray:
    """Return float32 of the same shape: pixels / 255, minus the mean, over the deviation."""
    scaled = pixels.astype(np.float32) / np.float32(255)
    result: FloatArray = (scaled - np.float32(MEAN)) / np.float32(STD)
    return result


def image_tensor(picture: Image.Image) -> FloatArray:
    """Return float32 [1, 1, 56, 56] for one picture, channel first."""
    return normalised(resized(picture))[np.newaxis, np.newaxis]


def resized_batch(images: ByteArray) -> ByteArray:
    """Return uint8 [N, 56, 56] for uint8 [N, H, W], each resized as `resized` does."""
    batch = np.empty((len(images), SIDE_PX, SIDE_PX), np.uint8)
    for row, image in enumerate(images):
        batch[row] = resized(Image.fromarray(image))
    return batch


def batch_tensor(images: ByteArray) -> FloatArray:
    """Return float32 [N, 1, 56, 56] for uint8 [N, 28, 28]."""
    return normalised(resized_batch(images))[:, np.newaxis]
