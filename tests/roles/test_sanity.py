"""`ansible-test sanity` on the built collection, as it is published: every test that Ansible has for a collection."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parts.unpack import unpack
from tests.roles.controller import ROOT, Controller

# Environments with the programs that the tests ask for, made once, each pinned by ansible-test itself.
HOME = ROOT / "build" / "parts" / "sanity"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# It would download this from a host of its own. What it is for, Python brings along.
BOOTSTRAP = "import ensurepip\n\nensurepip.bootstrap()\n"
# What is not taken over, and why.
LICENCE = "validate-modules:missing-gplv3-license # the project's licence is Apache-2.0"
RUN_BY_THE_DEVICE = "shebang # the device runs it by its own Python, whatever PATH says"
GIVEN_TO_SH = "shellcheck:SC2148 # given to sh as text, so it has no first line"
UNUSED = "pylint:disallowed-name # _ is what is not used, as elsewhere in the project"
# Everything that it lists applies. These have nothing to look at in this collection.
NOTHING_FOR = {
    "action-plugin-docs": "no action plugins",
    "changelog": "CHANGELOG.md is written by hand, without antsibull",
    "pslint": "no PowerShell",
}


def _unused(source: str) -> bool:
    """Whether ``_`` is assigned to anywhere."""
    return any(
        isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == "_"
        for node in ast.walk(ast.parse(source))
    )


def waived(collection: Path) -> list[str]:
    """Lines of ignore.txt: no more and no fewer than there are, since a needless one is an error too."""
    lines = []
    for path in sorted(path for path in collection.rglob("*") if path.is_file()):
        name = path.relative_to(collection).as_posix()
        if re.match(r"plugins/(modules|lookup)/\w+\.py$", name):
            lines.append(f"{name} {LICENCE}")
        if name.startswith("roles/") and path.read_bytes().startswith(b"#!/usr/bin/python3"):
            lines.append(f"{name} {RUN_BY_THE_DEVICE}")
        if name.endswith(".sh") and not path.read_text().startswith(("#!", "# shellcheck")):
            lines.append(f"{name} {GIVEN_TO_SH}")
        if name.endswith(".py") and _unused(path.read_text()):
            lines.append(f"{name} {UNUSED}")
    return lines


def prepare_home(controller: Controller) -> None:
    """Where ansible-test keeps its environments, and what its pip needs to know."""
    # It hides the environment from pip: what this machine says there of its network goes into pip's settings.
    names = [name for name in ("cert", "proxy", "index_url") if f"PIP_{name.upper()}" in os.environ]
    settings = ["[global]", *(f"{name.replace('_', '-')} = {os.environ[f'PIP_{name.upper()}']}" for name in names)]
    (HOME / ".config" / "pip").mkdir(parents=True, exist_ok=True)
    (HOME / ".config" / "pip" / "pip.conf").write_text("\n".join(settings) + "\n")
    code = "import ansible_test._internal.python_requirements as it; print(open(it.__file__).read())"
    pip = re.search(r"pip=['\"](\d[\d.]*)", controller.command(sys.executable, "-c", code, cwd=HOME).stdout)
    assert pip, "ansible-test no longer says which pip it brings"
    cache = HOME / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (cache / f"get_pip_{pip[1].replace('.', '_')}.py").write_text(BOOTSTRAP)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_collection_passes_the_sanity_tests_of_ansible(
    built_collection: Path, tmp_path: Path, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    collection = tmp_path / "ansible_collections" / "surefoot" / "edge"
    collection.mkdir(parents=True)
    unpack(built_collection, collection)
    sanity = collection / "tests" / "sanity"
    sanity.mkdir(parents=True)
    version = controller.command("ansible-test", "--version", cwd=collection).stdout.split()[-1]
    ignored = waived(collection)
    (sanity / f"ignore-{'.'.join(version.split('.')[:2])}.txt").write_text("".join(f"{line}\n" for line in ignored))
    prepare_home(controller)
    done = subprocess.run(
        ["ansible-test", "sanity", "--local", "--python", PYTHON, "--color", "no"],
        cwd=collection,
        env={**controller.environment(), "HOME": str(HOME)},
        capture_output=True,
        text=True,
        check=False,
        timeout=840,
    )
    said = done.stdout + done.stderr
    ran = re.findall(r'^Running sanity test "([\w-]+)"', said, re.MULTILINE)
    with capsys.disabled():
        print(f"\nansible-test {version} sanity: {len(ran)} tests ran: {', '.join(ran)}")
        print("nothing to look at for " + "; ".join(f"{name} ({why})" for name, why in NOTHING_FOR.items()))
        print(f"{len(ignored)} waivers, each with its reason")
    assert done.returncode == 0, "\n".join(line for line in said.splitlines() if line.startswith(("ERROR", "FATAL")))
    assert {"pep8", "pylint", "validate-modules", "yamllint", "import", "compile", "ansible-doc", "shellcheck"} <= set(
        ran
    )
