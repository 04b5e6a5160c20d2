from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from surefoot.errors import BadRequest
from surefoot.release.manifest import ImagePreprocessing
from surefoot.runtimes.calibrated import softmax
from surefoot.runtimes.preprocessing import image_to_tensor

GRAY = ImagePreprocessing(width=6, height=4, color="gray", layout="NCHW", mean=(0.5,), std=(0.25,))
RGB = ImagePreprocessing(
    width=6, height=4, color="rgb", layout="NHWC", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0), resize="nearest"
)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


def test_gray_is_scaled_and_normalised_channel_first():
    pixels = noise(4, 6)
    tensor = image_to_tensor(encoded(pixels), GRAY)
    assert tensor.dtype == np.float32 and tensor.shape == (1, 1, 4, 6) and tensor.flags.c_contiguous
    np.testing.assert_allclose(tensor[0, 0], (pixels.astype(np.float32) / 255 - 0.5) / 0.25, atol=1e-6)


def test_colour_has_a_mean_and_deviation_for_each_channel_channel_last():
    pixels = noise(4, 6, 3)
    tensor = image_to_tensor(encoded(pixels), RGB)
    assert tensor.shape == (1, 4, 6, 3)
    expected = (pixels.astype(np.float32) / 255 - np.array([0.1, 0.2, 0.3])) / np.array([1.0, 2.0, 4.0])
    np.testing.assert_allclose(tensor[0], expected, atol=1e-6)


def test_the_reference_models_own_preprocessing_gives_the_same_tensor():
    pixels = noise(28, 28)
    small = Image.fromarray(pixels).resize((56, 56), Image.Resampling.BILINEAR)
    expected = (np.asarray(small).astype(np.float32) / np.float32(255) - np.float32(0.286)) / np.float32(0.353)
    spec = ImagePreprocessing(width=56, height=56, color="gray", layout="NCHW", mean=(0.286,), std=(0.353,))
    np.testing.assert_allclose(image_to_tensor(encoded(pixels), spec)[0, 0], expected, atol=1e-6)


def test_transparency_and_palettes_are_taken():
    image = Image.fromarray(noise(4, 6, 4))
    for mode in ("RGBA", "P", "LA", "1"):
        stream = io.BytesIO()
        image.convert("RGB").convert(mode).save(stream, "PNG")
        assert image_to_tensor(stream.getvalue(), GRAY).shape == (1, 1, 4, 6)


def test_a_jpeg_is_taken():
    assert image_to_tensor(encoded(noise(40, 60, 3), "JPEG"), RGB).shape == (1, 4, 6, 3)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP"])
def test_other_formats_are_refused(kind):
    with pytest.raises(BadRequest, match="PNG or a JPEG"):
        image_to_tensor(encoded(noise(8, 8, 3), kind), RGB)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_cut_short_is_refused_at_every_length(kind):
    whole = encoded(noise(32, 32, 3), kind, **({"quality": 95} if kind == "JPEG" else {}))
    for share in (0.05, 0.3, 0.6, 0.9):
        with pytest.raises(BadRequest):
            image_to_tensor(whole[: int(len(whole) * share)], RGB)


def test_a_bomb_is_refused_before_it_is_decoded():
    bomb = encoded(np.zeros((3000, 3000), np.uint8))
    assert len(bomb) < 20_000
    with pytest.raises(BadRequest, match="too many pixels"):
        image_to_tensor(bomb, GRAY, most_pixels=1_000_000)
    assert image_to_tensor(bomb, GRAY, most_pixels=9_000_000).shape == (1, 1, 4, 6), "only the bound refused it"


def test_a_picture_of_16_bits_is_refused_rather_than_clipped():
    with pytest.raises(BadRequest, match="8 bits"):
        image_to_tensor(encoded(np.full((4, 6), 40_000, np.uint16)), GRAY)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"]))
def test_whatever_bytes_come_the_answer_is_a_tensor_or_a_refusal(data, start):
    with contextlib.suppress(BadRequest):
        assert image_to_tensor(start + data, GRAY).shape == (1, 1, 4, 6)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_png_is_a_tensor_or_a_refusal(data):
    whole = bytearray(encoded(noise(16, 16)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(8, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(BadRequest):
        assert image_to_tensor(bytes(whole), GRAY).shape == (1, 1, 4, 6)


def test_softmax_adds_up_and_survives_large_logits():
    for logits in ([1000.0, 0.0, -1000.0], [-1e30, -1e30, -1e30], [0.1, 0.2, 0.3]):
        assert softmax(np.array([logits])).sum() == pytest.approx(1.0)


def test_a_higher_temperature_is_less_sure_and_keeps_the_order():
    logits = np.array([2.0, 1.0, -1.0])
    warm, cold = softmax(logits, 3.0), softmax(logits, 0.5)
    assert warm.max() < softmax(logits).max() < cold.max()
    assert warm.argsort().tolist() == cold.argsort().tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_makes_its_whole_row_not_a_number(bad):
    rows = softmax(np.array([[0.0, bad, 1.0], [0.0, 1.0, 2.0]]))
    assert np.isnan(rows[0]).all() and rows[1].sum() == pytest.approx(1.0)
