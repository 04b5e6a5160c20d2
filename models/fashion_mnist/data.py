"""Fashion-MNIST, read from the gzipped IDX files of Debian's `dataset-fashion-mnist`."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fashion_mnist.preprocessing import LABELS, ByteArray, IndexArray

PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
CACHE = Path(__file__).resolve().parent.parent / ".cache"
DOWNLOAD_TIMEOUT_S = 300

TRAIN_COUNT, TEST_COUNT = 60_000, 10_000
IMAGE_SIDE_PX = 28
VALIDATION_PER_CLASS = 500
SPLIT_SEED = 20171

# IDX: two zero bytes, the type (8 is unsigned byte), the number of dimensions, then each size
# as a big-endian 32-bit integer (http://yann.lecun.com/exdb/mnist/, "the IDX file format").
IMAGE_MAGIC, LABEL_MAGIC = 0x00000803, 0x00000801

SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""Digests of the unpacked files: the packed ones depend on who packed them."""


class DatasetError(Exception):
    """The data set is not here and could not be had, or is not the one that is expected."""


@dataclass(frozen=True)
class LabelledImages:
    """Pictures with what they show.

    Attributes:
        images: uint8 [N, 28, 28], 0 is the black background.
        labels: uint8 [N], an index into `preprocessing.LABELS`.
        index: int64 [N], where each picture is in the data set's own file.
    """

    images: ByteArray
    labels: ByteArray
    index: IndexArray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: IndexArray) -> LabelledImages:
        """Return the rows given by their positions in this set."""
        return LabelledImages(self.images[rows], self.labels[rows], self.index[rows])


def dataset_folder() -> Path:
    """Return the folder with the four `.gz` files, fetching Debian's package if need be.

    Looks at the installed package first, then at the cache, then downloads the package as an
    ordinary user and unpacks it into the cache.

    Raises:
        DatasetError: none of the three worked; the message says what to install.
    """
    unpacked = CACHE / "dataset" / INSTALLED.relative_to("/")
    for folder in (INSTALLED, unpacked):
        if all((folder / f"{name}.gz").is_file() for name in SHA256):
            return folder
    _fetch_package(CACHE / "dataset")
    return unpacked


def _fetch_package(target: Path) -> None:
    advice = (
        f"Fashion-MNIST was not found in {INSTALLED} and could not be fetched. "
        f"Install it (apt-get install {PACKAGE}), or copy its four .gz files to {INSTALLED}."
    )
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise DatasetError(f"{advice} This machine has no apt-get and dpkg.")
    download = CACHE / "download"
    shutil.rmtree(download, ignore_errors=True)
    download.mkdir(parents=True)
    _run(["apt-get", "download", PACKAGE], download, advice)
    packages = sorted(download.glob(f"{PACKAGE}_*.deb"))
    if len(packages) != 1:
        raise DatasetError(f"{advice} apt-get left {len(packages)} packages, not one.")
    partial = target.with_name(target.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    _run(["dpkg", "-x", str(packages[0]), str(partial)], download, advice)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    shutil.rmtree(download)


def _run(command: list[str], folder: Path, advice: str) -> None:
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DatasetError(f"{advice} {command[0]} failed: {error}") from error
    if result.returncode != 0:
        raise DatasetError(f"{advice} {command[0]} said: {result.stderr.strip()[-500:]}")


def read_idx(folder: Path, name: str, magic: int, shape: tuple[int, ...]) -> ByteArray:
    """Return one IDX file's array, uint8 of `shape`.

    Never unpacks more bytes than `shape` allows.

    Raises:
        DatasetError: the file cannot be read, or its magic number, sizes, length or
            digest differ from what is expected.
    """
    path = folder / f"{name}.gz"
    header_bytes = 4 + 4 * len(shape)
    length_bytes = header_bytes + int(np.prod(shape))
    try:
        with gzip.open(path, "rb") as stream:
            content = stream.read(length_bytes + 1)
    except (OSError, EOFError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    if len(content) != length_bytes:
        found = "more" if len(content) > length_bytes else str(len(content))
        raise DatasetError(f"{path} holds {found} bytes, expected {length_bytes}")
    header = struct.unpack(f">{1 + len(shape)}I", content[:header_bytes])
    if header != (magic, *shape):
        raise DatasetError(f"{path} has header {header}, expected {(magic, *shape)}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        raise DatasetError(f"{path} has SHA-256 {digest}, expected {SHA256[name]}")
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape)


def _labelled(prefix: str, count: int) -> LabelledImages:
    folder = dataset_folder()
    sides = (IMAGE_SIDE_PX, IMAGE_SIDE_PX)
    images = read_idx(folder, f"{prefix}-images-idx3-ubyte", IMAGE_MAGIC, (count, *sides))
    labels = read_idx(folder, f"{prefix}-labels-idx1-ubyte", LABEL_MAGIC, (count,))
    return LabelledImages(images, labels, np.arange(count))


def test_images() -> LabelledImages:
    """Return the 10,000 test images. Nothing is ever chosen by looking at them."""
    return _labelled("t10k", TEST_COUNT)


def training_and_validation() -> tuple[LabelledImages, LabelledImages]:
    """Return 55,000 images to learn from and 5,000 to choose and calibrate by.

    500 of each class are held out, always the same ones.
    """
    everything = _labelled("train", TRAIN_COUNT)
    order = np.random.default_rng(SPLIT_SEED).permutation(TRAIN_COUNT)
    held_out = np.zeros(TRAIN_COUNT, bool)
    for label in range(len(LABELS)):
        held_out[order[everything.labels[order] == label][:VALIDATION_PER_CLASS]] = True
    return everything.take(np.flatnonzero(~held_out)), everything.take(np.flatnonzero(held_out))


def main() -> None:
    """Print how many images there are and where, fetching them if need be."""
    training, held_out = training_and_validation()
    counts = f"{len(training)} training, {len(held_out)} validation, {len(test_images())} test"
    print(f"{counts} images in {dataset_folder()}")


if __name__ == "__main__":
    main()
