"""What a worker makes of a slot before it serves from it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from surefoot.errors import DeviceUnable, UntrustedRelease
from surefoot.serving.loaded import open_model
from surefoot.serving.messages import Load
from tests.app.serving.device import Device, classifier_release
from tests.app.slots.kit import flip_a_bit

FILES = ("manifest.json", "model.onnx", "golden.msgpack")
Open = Callable[[], object]


@pytest.fixture
def slot(tmp_path: Path) -> tuple[Path, Open]:
    """The folder of a release, and how a worker takes it in: every byte that it needs verified."""
    device, release = Device(tmp_path / "device"), classifier_release()
    directory = device.store().slot_path(device.fill(release))
    variant = release.manifest.variants[0].id
    load = Load(directory=str(directory), lock="", digest=release.digest, variant=variant, threads=1)
    return directory, lambda: open_model(load).golden()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_read_is_no_evidence_against_a_release(
    name: str, slot: tuple[Path, Open], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evidence quarantines: a disk that fails at one read would keep a good release away for good."""
    directory, take_in = slot
    take_in()
    real = Path.open

    def failing(path: Path, *arguments: Any, **options: Any) -> object:
        if path == directory / name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(DeviceUnable, match=f"{name} cannot be read"):
        take_in()
    monkeypatch.undo()
    take_in()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_another_is(name: str, slot: tuple[Path, Open]) -> None:
    directory, take_in = slot
    flip_a_bit(directory / name)
    with pytest.raises(UntrustedRelease):
        take_in()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_is(name: str, slot: tuple[Path, Open]) -> None:
    directory, take_in = slot
    (directory / name).unlink()
    with pytest.raises(UntrustedRelease, match=f"{name} cannot be read"):
        take_in()
