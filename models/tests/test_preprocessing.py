from __future__ import annotations

import numpy as np
from PIL import Image

from fashion_mnist.preprocessing import MEAN, STD, batch_tensor, image_tensor


def test_black_and_white_become_the_ends_of_the_range() -> None:
    picture = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (28, 14)))
    tensor = image_tensor(picture)
    assert tensor.shape == (1, 1, 56, 56)
    assert tensor.dtype == np.float32
    flat = [image_tensor(Image.new("L", (28, 28), grey)) for grey in (0, 255)]
    assert np.allclose(flat[0], -MEAN / STD)
    assert np.allclose(flat[1], (1 - MEAN) / STD)


def test_a_batch_is_what_single_pictures_are() -> None:
    images = np.random.default_rng(5).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    single = np.concatenate([image_tensor(Image.fromarray(image)) for image in images])
    assert np.array_equal(batch_tensor(images), single)


def test_a_colour_picture_is_taken_as_grey() -> None:
    grey = Image.fromarray(np.random.default_rng(6).integers(0, 256, (28, 28), dtype=np.uint8))
    assert np.array_equal(image_tensor(grey.convert("RGB")), image_tensor(grey))
