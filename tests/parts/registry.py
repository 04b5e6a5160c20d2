"""A real OCI registry for the tests: Debian's docker-registry, on loopback, in a folder of its own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3

from tests.parts import debian

CONFIGURATION = """
version: 0.1
log: {level: info}
storage: {filesystem: {rootdirectory: DATA}}
http: {addr: "127.0.0.1:0"}
"""


@dataclass(frozen=True)
class Registry:
    """``address`` is host:port; an engine takes plain HTTP from loopback without being told."""

    address: str
    data: Path

    def digest(self, name: str, tag: str) -> str:
        """What it says itself, asked as the distribution specification has it."""
        kinds = ("image.manifest.v1", "image.index.v1")
        accepted = [f"application/vnd.oci.{kind}+json" for kind in kinds]
        accepted += [f"application/vnd.docker.distribution.{kind}.v2+json" for kind in ("manifest", "manifest.list")]
        url = f"http://{self.address}/v2/{name}/manifests/{tag}"
        reply = urllib3.request("HEAD", url, headers={"Accept": ", ".join(accepted)}, retries=False, timeout=10.0)
        assert reply.status == 200, (url, reply.status)
        return reply.headers["Docker-Content-Digest"]

    def blobs(self) -> dict[str, int]:
        """Every blob that it stores, with its bytes: layers, configurations, manifests."""
        found = self.data.glob("docker/registry/v2/blobs/sha256/*/*/data")
        return {path.parent.name: path.stat().st_size for path in found}


@contextmanager
def running(folder: Path) -> Iterator[Registry]:
    """A registry with nothing in it, on a port that the kernel chose; stopped at the end."""
    folder.mkdir(parents=True)
    settings = folder / "config.yml"
    settings.write_text(CONFIGURATION.replace("DATA", str(folder / "data")))
    program = debian.program("docker-registry", "usr/bin/docker-registry")
    process = subprocess.Popen(
        [program, "serve", settings],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        assert process.stderr is not None
        said = b""
        for line in process.stderr:
            said += line
            if found := re.search(rb"listening on (127\.0\.0\.1:\d+)", line):
                # From here on nobody reads: what it logs must not block it.
                subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
                yield Registry(found[1].decode(), folder / "data")
                return
        raise AssertionError(f"the registry did not start:\n{said.decode()}")
    finally:
        process.terminate()
        process.wait(10)
