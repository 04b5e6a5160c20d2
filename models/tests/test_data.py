from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from fashion_mnist import data
from fashion_mnist.preprocessing import ByteArray

NAME = "t10k-labels-idx1-ubyte"
LABELS = bytes([3, 1, 4, 1, 5])


def write_labels(folder: Path, content: bytes) -> None:
    (folder / f"{NAME}.gz").write_bytes(gzip.compress(content))


def idx(magic: int, count: int, labels: bytes = LABELS) -> bytes:
    return struct.pack(">II", magic, count) + labels


def read(folder: Path) -> ByteArray:
    return data.read_idx(folder, NAME, data.LABEL_MAGIC, (len(LABELS),))


@pytest.fixture(autouse=True)
def the_small_file_is_the_expected_one(monkeypatch: pytest.MonkeyPatch) -> None:
    content = idx(data.LABEL_MAGIC, len(LABELS))
    monkeypatch.setitem(data.SHA256, NAME, hashlib.sha256(content).hexdigest())


def test_labels_are_read_in_order(tmp_path: Path) -> None:
    write_labels(tmp_path, idx(data.LABEL_MAGIC, len(LABELS)))
    assert read(tmp_path).tolist() == list(LABELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(data.IMAGE_MAGIC, len(LABELS)), "has header"),
        (idx(data.LABEL_MAGIC, len(LABELS) + 1), "has header"),
        (idx(data.LABEL_MAGIC, len(LABELS), LABELS[:-1]), "holds 12 bytes, expected 13"),
        (idx(data.LABEL_MAGIC, len(LABELS), LABELS + b"\0" * 1000), "holds more bytes"),
        (idx(data.LABEL_MAGIC, len(LABELS), LABELS[::-1]), "has SHA-256"),
        (b"", "holds 0 bytes"),
    ],
)
def test_a_file_that_is_not_the_data_set_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    write_labels(tmp_path, content)
    with pytest.raises(data.DatasetError, match=message):
        read(tmp_path)


def test_a_file_cut_short_in_transfer_is_refused(tmp_path: Path) -> None:
    write_labels(tmp_path, idx(data.LABEL_MAGIC, len(LABELS)))
    path = tmp_path / f"{NAME}.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(data.DatasetError, match="cannot be read"):
        read(tmp_path)


def test_without_apt_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "INSTALLED", Path("/nowhere/fashion-mnist"))
    monkeypatch.setattr(data, "CACHE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(data.DatasetError, match="apt-get install dataset-fashion-mnist"):
        data.dataset_folder()


def test_a_set_keeps_where_each_picture_came_from() -> None:
    images = np.zeros((4, 28, 28), np.uint8)
    whole = data.LabelledImages(images, np.arange(4, dtype=np.uint8), np.arange(4))
    part = whole.take(np.array([3, 1])).take(np.array([1]))
    assert part.index.tolist() == [1]
    assert part.labels.tolist() == [1]
