"""What is in an image: an SBOM (CycloneDX) and a table of licences, read from the finished image itself.

Python packages by their metadata, Debian packages by dpkg's own lists; the SBOM is written by cyclonedx-python-lib.
"""

from __future__ import annotations

import json
import re
import tarfile
import uuid
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import IO, NamedTuple

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot5
from packageurl import PackageURL

from images.base.debian import Problem

MOST_FILE_BYTES = 4 * 1024 * 1024
METADATA = re.compile(r".*\.dist-info/METADATA")
DPKG = re.compile(r"var/lib/dpkg/(status|status\.d/[^/]+)")
COPYRIGHT = re.compile(r"usr/share/doc/([^/]+)/copyright")
UNSTRUCTURED = "see /usr/share/doc"  # the copyright file is prose, or the package shares another's


class Part(NamedTuple):
    """A package in an image."""

    kind: str
    name: str
    version: str
    licence: str
    architecture: str = ""


def layers(archive: Path) -> Iterator[tarfile.TarFile]:
    """The layers of a Docker archive, from the base up."""
    with tarfile.open(archive) as outer:
        manifest: IO[bytes] | None = outer.extractfile("manifest.json")
        if manifest is None:
            raise Problem(f"{archive} is not a Docker archive")
        for name in json.load(manifest)[0]["Layers"]:
            with tarfile.open(fileobj=outer.extractfile(name)) as layer:
                yield layer


def parts(archive: Path) -> list[Part]:
    """Every package in the image."""
    found: dict[tuple[str, str], Part] = {}
    copyrights: dict[str, str] = {}
    for layer in layers(archive):
        for member in layer:
            patterns = (METADATA, DPKG, COPYRIGHT)
            if (
                not member.isreg()
                or member.size > MOST_FILE_BYTES
                or not any(p.fullmatch(member.name) for p in patterns)
            ):
                continue
            file = layer.extractfile(member)
            text = file.read().decode(errors="replace") if file else ""
            if owner := COPYRIGHT.fullmatch(member.name):
                copyrights[owner[1]] = debian_licence(text)
            for part in [python_part(text)] if METADATA.fullmatch(member.name) else debian_parts(text, member.name):
                found[part.kind, part.name] = part
    named = (p._replace(licence=copyrights.get(p.name, p.licence)) if p.kind == "deb" else p for p in found.values())
    return sorted(named)


def python_part(text: str) -> Part:
    """A Python package from its METADATA: the licence expression, else the classifiers, else the free text's start."""
    fields = HeaderParser().parsestr(text)
    classified = [c.rpartition(" :: ")[2] for c in fields.get_all("Classifier", []) if c.startswith("License :: ")]
    free = (fields.get("License") or "").strip().partition("\n")[0][:80]
    licence = fields.get("License-Expression") or " and ".join(sorted(classified)) or free or "not said"
    kind = "generic" if fields["Name"] == "surefoot" else "pypi"
    return Part(kind, str(fields["Name"]), str(fields["Version"]), str(licence))


def debian_parts(text: str, where: str) -> Iterator[Part]:
    """Debian packages from dpkg's list, or from one of the snippets that images without dpkg carry."""
    if where.endswith(".md5sums"):
        return
    for paragraph in text.strip().split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.MULTILINE))
        if "Package" in fields:
            yield Part("deb", fields["Package"], fields["Version"], UNSTRUCTURED, fields["Architecture"])


def debian_licence(text: str) -> str:
    """The short names in a machine-readable copyright file; otherwise where to read."""
    names = sorted(set(re.findall(r"^License: *([\w.+-]+(?: (?:or|and|with) [\w.+-]+)*) *$", text, re.MULTILINE)))
    return " and ".join(names) or UNSTRUCTURED


def bom(found: list[Part], name: str, version: str) -> str:
    """The SBOM as JSON; the same parts give the same text."""
    licences = LicenseFactory()
    root = Component(type=ComponentType.CONTAINER, name=name, version=version, bom_ref=f"{name}@{version}")
    document = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, repr((name, version, found))))
    document.metadata.component = root
    for part in found:
        qualifiers = {"arch": part.architecture} if part.architecture else None
        namespace = "debian" if part.kind == "deb" else None
        url = PackageURL(part.kind, namespace, part.name, part.version, qualifiers)
        component = Component(
            type=ComponentType.LIBRARY, name=part.name, version=part.version, purl=url, bom_ref=str(url),
            licenses=[licences.make_from_string(part.licence)],
        )  # fmt: skip
        document.components.add(component)
    document.register_dependency(root, document.components)
    written = json.loads(JsonV1Dot5(document).output_as_string())
    written["metadata"].pop("timestamp", None)  # the image's own label says when
    return json.dumps(written, indent=1, sort_keys=True) + "\n"


def table(found: list[Part]) -> str:
    """The licence report."""
    origin = {"deb": "Debian", "pypi": "PyPI", "generic": "this project"}
    rows = ["\t".join((part.name, part.version, origin[part.kind], part.licence)) for part in found]
    return "\n".join(["package\tversion\tfrom\tlicence", *rows]) + "\n"


def write_beside(archive: Path, name: str, version: str) -> None:
    """Write both beside the image's archive."""
    found = parts(archive)
    stem = str(archive).removesuffix(".docker.tar")
    Path(f"{stem}.cdx.json").write_text(bom(found, name, version))
    Path(f"{stem}.licences.tsv").write_text(table(found))
