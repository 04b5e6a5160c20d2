"""What is in an image: the same bytes each time, few of them, all of them named."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from images import sizes
from images.base import assemble, debian
from images.build import forget_registries
from surefoot import __version__
from tests.conftest import ROOT
from tests.images.conftest import Builder, Image

Built = Callable[..., Image]


def test_the_same_commit_built_again_from_nothing_gives_the_same_digest(
    builder: Builder, built: Built, tmp_path: Path
) -> None:
    first = built("generic-amd64")
    again = builder("generic-amd64", "--no-cache", "--into", str(tmp_path))
    assert again.returncode == 0, again.stderr
    assert again.stdout.split()[-1] == first.digest
    for file in tmp_path.iterdir():
        assert debian.digest(file) == debian.digest(first.archive.parent / file.name), file.name


def test_an_archive_does_not_say_where_its_layers_were_pushed(built: Built, tmp_path: Path) -> None:
    archive = built("generic-amd64").archive
    noted = tmp_path / "noted.tar"
    with tarfile.open(archive) as before, tarfile.open(noted, "w", format=tarfile.USTAR_FORMAT) as after:
        for member in before:
            data = before.extractfile(member)
            content = data.read() if data else b""
            if member.name == "index.json":
                note = b'"annotations":{"containerd.io/distribution.source.registry.example":"edge/surefoot",'
                content = content.replace(b'"annotations":{', note)
                assert note in content
            member.size = len(content)
            after.addfile(member, io.BytesIO(content))
    forget_registries(noted)
    with tarfile.open(archive) as before, tarfile.open(noted) as after:
        assert after.getnames() == before.getnames()
        for name in ("index.json", "manifest.json", "oci-layout"):
            assert after.extractfile(name).read() == before.extractfile(name).read()


def test_no_file_of_ours_carries_the_time_of_its_build(built: Built) -> None:
    """Else each commit would ship every layer again, and not only the app's."""
    with tarfile.open(built("generic-amd64").archive) as outer:
        manifest = outer.extractfile("manifest.json")
        assert manifest
        for name in json.load(manifest)[0]["Layers"][-sizes.OWN_LAYERS :]:
            with tarfile.open(fileobj=outer.extractfile(name)) as layer:
                assert {member.mtime for member in layer} == {0}


def test_our_base_is_unpacked_to_the_same_bytes_each_time(tmp_path: Path) -> None:
    debs = ROOT / "build" / "debs"
    packages = [p for p in debian.read_lock() if (p.section, p.architecture) == ("base", "arm64")]
    debian.fetch(packages, debs)
    for name in ("one", "two"):
        assemble.assemble([debs / package.file for package in packages], tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("target", ["generic-amd64", "rpi"])
def test_an_image_is_within_its_size(target: str, built: Built) -> None:
    _, above = sizes.layers(built(target).archive)
    print(f"{target}: {above / 1e6:.1f} MB above the base")
    assert above <= 70_000_000


@pytest.mark.parametrize("target", ["generic-amd64", "rpi"])
def test_the_documented_table_has_the_shape_that_is_written_now(target: str, built: Built) -> None:
    """Sizes move with every lock; a documented one may lag by a tenth."""
    document = sizes.DOCUMENT.read_text()
    written = document.partition(sizes.MARKS[0])[2].partition(sizes.MARKS[1])[0]
    rows = [line.strip("| ").split(" | ") for line in written.splitlines()]
    column = rows[0].index(target)
    documented = float(next(row for row in rows if row[0] == "**above the base**")[column].strip("*"))
    assert documented == pytest.approx(sizes.layers(built(target).archive)[1] / 1e6, rel=0.1)


def test_the_sbom_and_the_licences_name_every_package(built: Built) -> None:
    stem = str(built("generic-amd64").archive).removesuffix(".docker.tar")
    text = Path(f"{stem}.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(text) is None
    named = {(component["name"].lower(), component["version"]) for component in json.loads(text)["components"]}
    for package in debian.read_lock():
        if package.section in ("base", "natives") and package.architecture == "amd64":
            assert (package.name, package.version) in named
    assert {"numpy", "onnxruntime", "ai-edge-litert", "tuf"} <= {name for name, _ in named}
    assert ("surefoot", __version__) in named
    rows = [line.split("\t") for line in Path(f"{stem}.licences.tsv").read_text().splitlines()]
    assert len(rows) == len(named) + 1
    assert all(row[3] for row in rows)
    assert [row for row in rows if row[3] == "not said"] == []
