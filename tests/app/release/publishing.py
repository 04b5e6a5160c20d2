"""A publisher for tests: real keys (cheaply encrypted), real metadata, a repository on the real disk."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

from surefoot.durable import Disk
from surefoot.release import build, keys, packed, recipe, repository
from surefoot.release.clock import Clock
from surefoot.release.keyfile import Cost

PASSPHRASE = "correct horse battery staple"
CHEAP = Cost(n=2, r=1, p=1)  # tests open keys often; what the default costs is a test of its own
NAME = "tiny"
LABELS = ("low", "middle", "high")
START = datetime(2026, 6, 1, tzinfo=timezone.utc)
DAY = timedelta(days=1)

RECIPE = """
name = "{name}"
version = "{version}"
labels = ["low", "middle", "high"]

[card]
file = "card.md"
data = "three stripes"
limits = "stripes alone"
fails_where = "no stripes"

[golden]
folder = "golden"

[reference]
artifact = "model.onnx"
runtime = "onnxruntime"
preprocessing = {{ width = 3, height = 3, color = "gray", layout = "NCHW" }}

[[variants]]
id = "onnx"
artifact = "model.onnx"
device_classes = ["generic-amd64", "generic-arm64"]
runtime = "onnxruntime"
inputs = [{{ name = "image", datatype = "FP32", shape = [-1, 1, 3, 3] }}]
outputs = [{{ name = "logits", datatype = "FP32", shape = [-1, 3] }}]
tolerance = {{ probability = 0.01 }}
preprocessing = {{ width = 3, height = 3, color = "gray", layout = "NCHW" }}
"""


def fake_reference(image: bytes) -> dict[str, list[float]]:
    """Stands for a model where only the packing is tested: the image's last byte is its class."""
    return {"logits": [0.9 if index == image[-1] else 0.05 for index in range(len(LABELS))]}


def write_recipe(folder: Path, version: str = "1.0.0", model: bytes = b"model", name: str = NAME) -> Path:
    """A folder with a recipe and all that it names."""
    (folder / "golden").mkdir(parents=True)
    (folder / "recipe.toml").write_text(RECIPE.format(name=name, version=version))
    (folder / "model.onnx").write_bytes(model)
    (folder / "card.md").write_text("# A card\n")
    for index, label in enumerate(LABELS):
        (folder / "golden" / f"{label}.png").write_bytes(b"image of " + bytes([index]))
    labels = {f"{label}.png": index for index, label in enumerate(LABELS)}
    (folder / "golden" / "labels.json").write_text(json.dumps(labels))
    return folder / "recipe.toml"


class FixedClock(Clock):
    """A clock whose time and trustworthiness the test decides."""

    def __init__(self, moment: datetime = START, synchronised: bool = True) -> None:
        self.moment = moment
        self.known = synchronised

    def now(self) -> datetime:
        return self.moment

    def synchronised(self) -> bool:
        return self.known


class Publisher:
    """Keys, a repository, and a clock that the test turns."""

    def __init__(self, folder: Path, root_keys: int = 2, root_threshold: int = 2) -> None:
        self.folder = folder
        self.keys = folder / "keys"
        self.repository = folder / "repository"
        self.now = START
        self.disk = Disk()
        plan = keys.Plan(root_keys, root_threshold, cost=CHEAP)
        keys.create(self.keys, PASSPHRASE, plan, now=self.now, disk=self.disk)

    @property
    def ring(self) -> keys.Keyring:
        return keys.Keyring(self.keys, PASSPHRASE)

    @property
    def root(self) -> bytes:
        """The first root, which devices pin."""
        return (self.keys / "1.root.json").read_bytes()

    def build(self, version: str = "1.0.0", model: bytes = b"", name: str = NAME) -> packed.Packed:
        folder = self.folder / "releases" / f"{name}-{version}-{len(list(self.folder.glob('releases/*')))}"
        file = write_recipe(folder / "source", version, model or f"model {version}".encode() * 2000, name)
        out = folder / "built"
        build.build(recipe.load(file), file.parent, out, fake_reference, created=self.now, disk=self.disk)
        return packed.read(out)

    def sign(self, release: packed.Packed) -> repository.SignedTargets:
        return repository.sign(release, self.ring, self.repository, now=self.now, disk=self.disk)

    def put(self, release: packed.Packed) -> repository.Published:
        return repository.publish(release, self.ring, self.repository, now=self.now, disk=self.disk)

    def publish(self, version: str = "1.0.0", model: bytes = b"", name: str = NAME) -> packed.Packed:
        """Build, sign and publish."""
        release = self.build(version, model, name)
        self.sign(release)
        self.put(release)
        return release

    def refresh(self) -> repository.Published:
        return repository.refresh(self.ring, self.repository, now=self.now, disk=self.disk)

    def renew(self, *roles: str) -> Path:
        replace = [role for role in ("root", "targets", "snapshot", "timestamp") if role in roles]
        return keys.renew(self.ring, replace, PASSPHRASE, cost=CHEAP, now=self.now, disk=self.disk)

    def snapshot_of_now(self) -> Path:
        """A copy of the repository as it is, for attacks by what is old."""
        copy = self.folder / f"copy-{len(list(self.folder.glob('copy-*')))}"
        shutil.copytree(self.repository, copy)
        return copy


class Cut(BaseException):
    """The power went."""


class CuttingDisk(Disk):
    """Goes out before the given primitive."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0

    def step(self, primitive: str, path: Path) -> None:
        if self.count == self.at:
            raise Cut(f"{primitive} {path}")
        self.count += 1


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, by relative name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
