"""One bit flipped in any file of the repository: either the deploy that reads it refuses, or `release verify` does."""

from __future__ import annotations

import http.server
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from demo.place import MODEL, SAMPLES
from tests.conftest import Repository

pytestmark = pytest.mark.attack


class Recording(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and remembers what was asked for and was there."""

    asked: set[str]

    def send_response(self, code: int, message: str | None = None) -> None:
        if code in (200, 206):
            self.asked.add(self.path.lstrip("/"))
        super().send_response(code, message)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, set[str]]]:
    asked: set[str] = set()
    handler = type("Handler", (Recording,), {"asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def flip(path: Path, where: random.Random) -> int:
    data = bytearray(path.read_bytes())
    bit = where.randrange(len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return bit


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


def forget(device) -> None:
    """A device that has accepted no newer metadata has to read every file of it again."""
    for kept in (device.folder / "trust").glob("*"):
        if kept.is_file() and not kept.name.endswith("root.json"):
            kept.unlink()


@pytest.fixture
def seed(request) -> int:
    chosen = random.SystemRandom().randrange(1 << 32)
    print(f"seed {chosen}")
    return chosen


def test_each_flipped_bit_that_a_deploy_reads_refuses_it_and_v1_goes_on(
    device_with_v1, make_device, signed_repository, tmp_path, seed
):
    """The twin holds v1 too, so its v2 deploy shows every file that such a deploy reads: what both share is not."""
    device, where = device_with_v1, random.Random(seed)
    with served(signed_repository.path) as (url, asked):
        twin = make_device("twin")
        twin.install("1.0.0", signed_repository)
        forget(twin)
        twin.json("model", "install", MODEL, "--version", "2.0.0", "--repository", url)
        read = sorted(asked)
    assert any(name.endswith("model.onnx") for name in read), read
    assert "metadata/timestamp.json" in read
    image = str(next(SAMPLES.glob("*.png")))
    active = device.folder / "models" / MODEL / device.model_status["active"]["slot"]
    content = bytes_of(active)
    for name in read:
        damaged = signed_repository.copy_to(tmp_path / "damaged" / name.replace("/", "_"))
        bit = flip(damaged.path / name, where)
        forget(device)
        error = device.json("model", "install", MODEL, "--version", "2.0.0", "--repository", str(damaged.path),
                            status=3)  # fmt: skip
        assert error["error"] == "UntrustedRelease", (name, bit, error)
        assert error["what"], (name, bit)
        assert device.served_version == "1.0.0", (name, bit)
        assert device.json("classify", image, "--url", device.url, "--model", MODEL), (name, bit)
        assert bytes_of(active) == content, (name, bit)
        verified = device.json("release", "verify", str(damaged.path), "--root", str(signed_repository.root), status=3)
        assert verified["error"] == "UntrustedRelease", (name, bit)
        shutil.rmtree(damaged.path)
    device.deploy("2.0.0", signed_repository)
    assert device.served_version == "2.0.0"


def test_a_flipped_bit_in_any_other_file_fails_the_check_of_the_repository(signed_repository, device, tmp_path, seed):
    where = random.Random(seed)
    assert device.run("release", "verify", str(signed_repository.path)).returncode == 0
    for name in files_of(signed_repository.path):
        damaged = signed_repository.copy_to(tmp_path / "damaged")
        bit = flip(damaged.path / name, where)
        done = device.run("release", "verify", str(damaged.path), "--root", str(signed_repository.root))
        assert done.returncode == 3, (name, bit, done.stdout, done.stderr)
        shutil.rmtree(damaged.path)


def test_the_twin_shows_that_a_flip_matters(signed_repository: Repository, device, tmp_path, seed):
    """The mutant: with the very byte flipped back, the same install succeeds."""
    damaged = signed_repository.copy_to(tmp_path / "damaged")
    target = next((damaged.path / "targets").rglob("*2.0.0*/*model.onnx"))
    good = target.read_bytes()
    flip(target, random.Random(seed))
    device.install("2.0.0", damaged, status=3)
    target.write_bytes(good)
    assert device.install("2.0.0", damaged)["changed"] is True
