from __future__ import annotations

from pathlib import Path

MODELS = Path(__file__).resolve().parent.parent


def pins(name: str) -> dict[str, str]:
    lines = (MODELS / name).read_text("utf-8").splitlines()
    pairs = (line.split(" ")[0].split("==") for line in lines if "==" in line and not line.startswith((" ", "#")))
    return {package.replace(".", "-"): version for package, version in pairs}


def test_the_lock_holds_what_was_asked_for() -> None:
    asked, locked = pins("requirements.in"), pins("requirements.lock")
    assert asked
    assert {package: locked.get(package) for package in asked} == asked


def test_the_lock_pulls_no_cuda() -> None:
    locked = pins("requirements.lock")
    assert locked["torch"].endswith("+cpu")
    assert not [package for package in locked if package.startswith(("nvidia", "cuda", "triton"))]


def test_every_locked_package_has_a_hash() -> None:
    text = (MODELS / "requirements.lock").read_text("utf-8")
    requirements = [block for block in text.split("\n") if "==" in block and not block.startswith(" ")]
    assert all(line.endswith("\\") for line in requirements)
    assert text.count("--hash=sha256:") >= len(requirements)
