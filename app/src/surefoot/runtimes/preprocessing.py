"""Encoded picture to tensor, exactly as the manifest declares it.

The order is fixed: decode, convert, resize (Pillow), to float32, times ``scale``, minus ``mean``, over ``std``.
Orientation tags are not applied, transparency is dropped, and an animated picture gives its first frame.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image

from surefoot.errors import BadRequest
from surefoot.release.manifest import ImagePreprocessing

FORMATS = ("PNG", "JPEG")
MOST_PIXELS = 32 * 1024 * 1024  # decoded at 4 bytes a pixel this is 128 MiB, what a small device can spare
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}  # 8 bits a channel: others would be clipped
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def image_to_tensor(data: bytes, spec: ImagePreprocessing, most_pixels: int = MOST_PIXELS) -> npt.NDArray[np.float32]:
    """Decode a PNG or JPEG and bring it to the model's form.

    Args:
        data: the encoded picture.
        spec: what the manifest declares.
        most_pixels: a picture with more is refused before it is decoded.

    Returns:
        float32 [1, C, H, W] for NCHW, [1, H, W, C] for NHWC.

    Raises:
        BadRequest: not a PNG or JPEG, damaged or cut short, too many pixels, or a depth other than 8 bits.
    """
    picture = _decode(data, most_pixels)
    picture = picture.convert("L" if spec.color == "gray" else "RGB")
    if picture.size != (spec.width, spec.height):
        picture = picture.resize((spec.width, spec.height), _FILTERS[spec.resize])
    pixels = np.asarray(picture).astype(np.float32)
    if spec.color == "gray":
        pixels = pixels[:, :, np.newaxis]
    pixels *= np.float32(spec.scale)
    pixels -= np.asarray(spec.mean, np.float32)
    pixels /= np.asarray(spec.std, np.float32)
    if spec.layout == "NCHW":
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[np.newaxis])


def _decode(data: bytes, most_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is stricter
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(str(error), most_pixels) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise BadRequest(
            "the picture cannot be read",
            found=_start(data),
            expected="a PNG or a JPEG",
            hint="convert the picture first",
        ) from error
    if picture.width * picture.height > most_pixels:
        raise _too_large(f"{picture.width} x {picture.height} pixels", most_pixels)
    if picture.mode not in _MODES:
        raise BadRequest(
            "the picture has a depth that is not taken", found=f"mode {picture.mode}", expected="8 bits a channel"
        )
    try:
        picture.load()
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data; all mean the same to the caller
        raise BadRequest(
            "the picture is damaged or cut short", found=f"{len(data)} bytes: {error}", expected="a whole PNG or JPEG"
        ) from error
    return picture


def _too_large(found: str, most_pixels: int) -> BadRequest:
    return BadRequest("the picture has too many pixels", found=found, expected=f"at most {most_pixels} pixels")


def _start(data: bytes) -> str:
    return f"{len(data)} bytes" + (f" starting {data[:8].hex(' ')}" if data else "")
