"""What is read of an archive of the app, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from images import bundle
from plugins.module_utils import app_artifact
from tests.images.macs import HERE, MAC, small_bundle


def archive(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]  # a mode that is not written here
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def image(architecture: str = "arm64") -> dict[str, bytes]:
    """The files of a small Docker archive."""
    import gzip

    layer = gzip.compress(bytes(5_000_000))
    labels = {"org.opencontainers.image.version": "1.2.3"}
    configuration = json.dumps({"architecture": architecture, "os": "linux", "config": {"Labels": labels}}).encode()
    digest = hashlib.sha256(configuration).hexdigest()
    manifest = [{"Config": f"blobs/sha256/{digest}", "RepoTags": ["x:1"], "Layers": ["blobs/sha256/layer", "plain"]}]
    return {
        f"blobs/sha256/{digest}": configuration,
        "blobs/sha256/layer": layer,
        "plain": bytes(1000),
        "index.json": json.dumps({"manifests": [{"digest": "sha256:0123"}]}).encode(),
        "manifest.json": json.dumps(manifest).encode(),
    }


def test_an_image_is_known_by_its_configuration_and_its_manifest(tmp_path: Path) -> None:
    files = image()
    found = app_artifact.describe(archive(tmp_path / "an.docker.tar", files))
    digest = next(iter(files)).rpartition("/")[2]
    assert found["id"] == f"1.2.3-{digest[:12]}"
    assert found["images"] == [f"sha256:{digest}", "sha256:0123"]
    assert (found["kind"], found["version"], found["system"], found["machine"]) == (
        "image",
        "1.2.3",
        "Linux",
        "aarch64",
    )
    # The unpacked layers, not the packed ones.
    assert 5_001_000 < found["needed_bytes"] - app_artifact.MARGIN_BYTES < 5_600_000
    assert found["bytes"] == (tmp_path / "an.docker.tar").stat().st_size


@pytest.mark.parametrize(("target", "system"), [(HERE, "Linux"), (MAC, "Darwin")])
def test_a_bundle_says_what_it_is_for(tmp_path: Path, target: bundle.Target, system: str) -> None:
    folder = small_bundle(tmp_path, target, needed_kb=1000)
    bundle.pack(folder, tmp_path / "a.tar.gz", 0)
    found = app_artifact.describe(tmp_path / "a.tar.gz")
    assert (found["kind"], found["system"], found["machine"]) == ("bundle", system, target.machine)
    assert found["python"] == f"{target.python[0]}.{target.python[1]}"
    assert f"bundle_id='{found['id']}'" in (folder / "bundle.conf").read_text()
    assert found["needed_bytes"] == 1_024_000 + found["bytes"]


def broken(name: str) -> dict[str, bytes]:
    files = image()
    manifest = json.loads(files["manifest.json"])
    if name == "two images":
        files["manifest.json"] = json.dumps(manifest * 2).encode()
    elif name == "another configuration":
        files[next(iter(files))] += b" "
    elif name == "no layer":
        del files["plain"]
    elif name == "no version":
        other = files[next(iter(files))].replace(b"org.opencontainers.image.version", b"other")
        digest = hashlib.sha256(other).hexdigest()
        manifest[0]["Config"] = f"{digest}.json"
        files |= {f"{digest}.json": other, "manifest.json": json.dumps(manifest).encode()}
    else:
        files["manifest.json"] = b" " * (app_artifact.MOST_INDEX_BYTES + 1)
    return files


@pytest.mark.parametrize("name", ["two images", "another configuration", "no layer", "no version", "a huge index"])
def test_an_image_that_is_none_of_ours_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(app_artifact.ArtifactError, match="is no archive of the app"):
        app_artifact.describe(archive(tmp_path / "x", broken(name)))


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    whole = archive(tmp_path / "whole", image()).read_bytes()
    for data in (b"", b"text", b"\x1f\x8b", whole[:1500]):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(app_artifact.ArtifactError):
            app_artifact.describe(tmp_path / "x")
    with pytest.raises(app_artifact.ArtifactError):
        app_artifact.describe(archive(tmp_path / "x.tar.gz", {"folder/other": b""}, "w:gz"))
    with pytest.raises(app_artifact.ArtifactError, match="nowhere"):
        app_artifact.describe(tmp_path / "nowhere")
