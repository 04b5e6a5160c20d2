"""Nothing of the target is executed during a build: the Dockerfile says so itself."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

DOCKERFILE = ROOT / "images" / "Dockerfile"


class Stage(NamedTuple):
    name: str
    base: str
    on_build_platform: bool
    steps: tuple[str, ...]


def stages(text: str) -> list[Stage]:
    """The stages of a Dockerfile; a step is its instruction's first line."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    found: list[Stage] = []
    for line in map(str.strip, joined.splitlines()):  # an instruction may be indented
        if start := re.match(r"FROM\s+(--platform=\S+\s+)?(\S+)(?:\s+AS\s+(\S+))?", line, re.IGNORECASE):
            platform, base, name = start.groups()
            found.append(Stage(name or "", base, "$BUILDPLATFORM" in (platform or ""), ()))
        elif found and line:
            found[-1] = found[-1]._replace(steps=(*found[-1].steps, line))
    return found


def faults(text: str) -> Iterator[str]:
    """Steps that would run something of the target, or bring in something unchecked."""
    for stage in stages(text):
        for step in stage.steps:
            if re.match(r"(ONBUILD\s+)?RUN\b", step, re.IGNORECASE) and not stage.on_build_platform:
                yield f"{stage.name} runs on the target: {step}"
            if re.match(r"RUN\b", step, re.IGNORECASE) and stage.name != "download" and "--network=none" not in step:
                yield f"{stage.name} has a network: {step}"
            if re.match(r"ADD\s+(--\S+\s+)*(https?:|git)", step, re.IGNORECASE):
                yield f"{stage.name} takes what no hash names: {step}"
            if "type=secret" in step and stage.name != "download":
                yield f"{stage.name} reads a secret: {step}"


def test_no_stage_of_the_target_runs_anything() -> None:
    text = DOCKERFILE.read_text()
    assert {"tools", "base", "wheels", "natives", "app", "image"} <= {stage.name for stage in stages(text)}
    assert list(faults(text)) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("FROM base AS image\n", "FROM base AS image\nRUN true\n"), "image runs on the target"),
        (("FROM base AS image\n", "FROM base AS image\nrun \\\n  true\n"), "image runs on the target"),
        (("FROM base AS image\n", "FROM base AS image\n  RUN true\n"), "image runs on the target"),
        (("FROM base AS image\n", "FROM base AS image\nONBUILD RUN true\n"), "image runs on the target"),
        (("FROM --platform=$BUILDPLATFORM tools AS wheels", "FROM tools AS wheels"), "wheels runs on the target"),
        (("RUN --network=none", "RUN"), "has a network"),
        (("FROM base AS image\n", "FROM base AS image\nADD https://example.org/a.tar /\n"), "no hash"),
    ],
)
def test_a_dockerfile_that_runs_something_of_the_target_is_found_out(change: tuple[str, str], fault: str) -> None:
    text = DOCKERFILE.read_text()
    assert change[0] in text
    assert any(fault in found for found in faults(text.replace(*change)))


def test_the_app_is_the_last_layer_so_that_a_change_of_it_packs_nothing_else() -> None:
    image = next(stage for stage in stages(DOCKERFILE.read_text()) if stage.name == "image")
    copies = [step for step in image.steps if step.startswith("COPY")]
    assert all("--link" in step for step in copies)
    assert "--from=app " in copies[-1]


def test_versions_and_digests_are_said_once_and_no_digest_is_invented() -> None:
    versions = (ROOT / "images" / "versions.hcl").read_text()
    names = re.findall(r'^variable "(\w+)" \{ default = "(.*)" \}', versions, re.MULTILINE)
    assert len(names) == versions.count("variable ")
    assert all(re.fullmatch(r"(sha256:[0-9a-f]{64})?", value) for name, value in names if name.endswith("_DIGEST"))
    others = subprocess.run(
        ["git", "grep", "-lE", "nvcr[.]io|sha256:[0-9a-f]{64}", "--", "images", ":!*.lock", ":!images/versions.hcl"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    assert others == ""


def test_googles_edge_tpu_package_is_never_taken_from_pypi() -> None:
    locks = [*ROOT.glob("requirements/*.lock"), *ROOT.glob("images/**/*.lock")]
    assert len(locks) >= 6
    assert [lock for lock in locks if re.search(r"^pycoral\b", lock.read_text(), re.MULTILINE)] == []


def test_the_licence_of_what_is_ours_is_what_the_label_says() -> None:
    bake = (ROOT / "images" / "docker-bake.hcl").read_text()
    assert json.loads(re.findall(r'image.licenses"\s*=\s*(".*")', bake)[0]) in (ROOT / "app/pyproject.toml").read_text()
