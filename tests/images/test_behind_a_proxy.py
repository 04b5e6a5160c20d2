"""Wheels are fetched through a site's proxy, whose CA and password are build secrets."""

from __future__ import annotations

import fcntl
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from images import build
from images.base.debian import Problem
from tests.conftest import ROOT
from tests.images import proxy
from tests.parts.docker import Engine

PINNED = r"^h11==[^\n]*\\\n(?:    --hash=\S+(?: \\)?\n)+"


@pytest.fixture
def target(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A target whose lock has one small package, in this test's own folder of wheels."""
    for name, value in engine.environment.items():
        monkeypatch.setenv(name, value)
    with (ROOT / "build" / ".building").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        build.bases()
        lock = ROOT / "build" / "base" / f"proxy-{uuid.uuid4().hex}.lock"
        found = re.search(PINNED, (ROOT / "requirements" / "device.lock").read_text(), re.MULTILINE)
        assert found
        lock.write_text(found[0])
        args = {"PYTHON_VERSION": "3.11", "GLIBC": "2.36", "LOCK": str(lock.relative_to(ROOT)), "EDGETPU_SHA256": ""}
        yield {"args": args, "platforms": ["linux/arm64"]}
        subprocess.run(["rm", "-rf", lock, ROOT / "build" / "wheels" / f"{lock.stem}-arm64-3.11"], check=True)


def test_a_build_behind_a_proxy_with_its_own_ca_works_and_leaves_no_secret_behind(
    target: dict[str, Any], engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy.running(tmp_path) as site:
        monkeypatch.setenv("PIP_CERT", str(site.ca))
        monkeypatch.setenv("HTTPS_PROXY", site.url)
        folder = build.wheelhouse(build.Buildx(tmp_path), target)
        assert [wheel.name.partition("-")[0] for wheel in folder.glob("*.whl")] == ["h11"]
        assert site.asked
    # What the step left, its secrets' mount points included.
    left = tmp_path / "left.tar"
    arguments = [f"--build-arg={name}={value}" for name, value in target["args"].items()]
    engine.docker(
        "buildx", "build", "--file", str(ROOT / "images/Dockerfile"), "--target=download", "--platform=linux/arm64",
        "--network=host", *arguments, f"--secret=id=ca,src={site.ca}", f"--secret=id=pip,src={tmp_path / 'pip.conf'}",
        f"--output=type=tar,dest={left}", str(ROOT),
    )  # fmt: skip
    content = left.read_bytes()
    assert b"wheelhouse/h11" in content
    assert proxy.PASSWORD.encode() not in content
    assert site.ca.read_bytes().splitlines()[1] not in content


@pytest.mark.parametrize("without", ["PIP_CERT", "HTTPS_PROXY"])
def test_without_the_ca_or_the_password_such_a_site_lets_nothing_through(
    without: str, target: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: the test above would notice a proxy that was passed by."""
    with proxy.running(tmp_path) as site:
        monkeypatch.setenv("PIP_CERT", str(site.ca))
        monkeypatch.setenv("HTTPS_PROXY", site.url)
        monkeypatch.setenv("PIP_RETRIES", "0")
        wrong = {
            "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt",
            "HTTPS_PROXY": site.url.replace(proxy.PASSWORD, "wrong"),
        }
        monkeypatch.setenv(without, wrong[without])
        with pytest.raises(Problem):
            build.wheelhouse(build.Buildx(tmp_path), target)
        assert site.turned_away or site.asked
