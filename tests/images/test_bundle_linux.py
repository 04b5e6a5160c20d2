"""What the bundles for Linux hold. A device of the tests installs one: roles/inference_app/molecule."""

from __future__ import annotations

from pathlib import Path

import pytest

from images import bundle
from images.wheels.check import Target, read_folder
from tests.parts.unpack import unpack


@pytest.mark.parametrize(("name", "machine"), [("linux-amd64", "x86_64"), ("linux-arm64", "aarch64")])
def test_a_bundle_for_linux_holds_the_lock_s_wheels_their_checksums_and_no_installer(
    name: str, machine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bundle.main([name, "--out", str(tmp_path)]) == 0
    assert f"needs Python 3.11 on {machine}" in capsys.readouterr().out
    unpack(tmp_path / f"surefoot-0.1.0-{name}.tar.gz", tmp_path)
    folder = tmp_path / f"surefoot-0.1.0-{name}"
    assert sorted(path.name for path in folder.iterdir()) == [
        "LICENSE", "README.txt", "SHA256SUMS", "bundle.conf", "requirements.lock", "wheels",
    ]  # fmt: skip
    conf = (folder / "bundle.conf").read_text()
    for line in ("bundle_system='Linux'", f"bundle_machine='{machine}'", "bundle_python_version='3.11'"):
        assert line in conf
    wheels = read_folder([folder / "wheels"])
    target = Target.of([bundle.TARGETS[name]], "3.11")
    assert {"surefoot", "numpy", "onnxruntime", "ai-edge-litert"} <= {wheel.name for wheel in wheels}
    assert [wheel.path.name for wheel in wheels if not wheel.tags & target.tags] == []


def test_a_target_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bundle.main(["windows-amd64"])
    assert "choose from" in capsys.readouterr().err
