"""The commands as typed, on a real ONNX model, with real keys of real cost."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from surefoot.cli.main import main
from surefoot.release import golden, manifest
from tests.app.release.publishing import LABELS, write_recipe
from tests.app.release.tiny_onnx import stripe, stripes_model

PASSPHRASE = "several plain words"


@pytest.fixture(autouse=True)
def passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUREFOOT_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1780000000")


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    return real_recipe(tmp_path / "source")


def real_recipe(folder: Path, version: str = "1.0.0") -> Path:
    file = write_recipe(folder, version, stripes_model())
    for row, label in enumerate(LABELS):
        (folder / "golden" / f"{label}.png").write_bytes(stripe(row))
    return file


def ran(capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0) -> dict:
    """Run a command with ``--json`` and give what it printed."""
    code = main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert code == status, (arguments, out, err)
    assert err == ""
    return json.loads(out)


@pytest.fixture(scope="module")
def made_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys as ``keys init`` makes them, once: they are dear on purpose."""
    folder = tmp_path_factory.mktemp("keys") / "keys"
    os.environ["SUREFOOT_PASSPHRASE"] = PASSPHRASE
    try:
        assert main(["keys", "init", str(folder)]) == 0
    finally:
        del os.environ["SUREFOOT_PASSPHRASE"]
    return folder


def test_the_whole_way_from_recipe_to_verified_repository(capsys, tmp_path, recipe_file, made_keys):
    out, there = tmp_path / "built", tmp_path / "repository"
    signing = ("--keys", made_keys, "--repository", there)
    built = ran(capsys, "release", "build", recipe_file, "--out", out)
    assert (built["name"], built["version"], built["golden_cases"]) == ("tiny", "1.0.0", 3)
    signed = ran(capsys, "release", "sign", out, *signing)
    assert signed["digest"] == built["digest"]
    published = ran(capsys, "release", "publish", out, *signing)
    assert (published["changed"], published["timestamp"]) == (True, 1)
    assert ran(capsys, "release", "publish", out, *signing)["changed"] is False
    assert ran(capsys, "release", "refresh", *signing)["timestamp"] == 2
    assert ran(capsys, "release", "inspect", there)["releases"][0]["digest"] == built["digest"]
    assert ran(capsys, "release", "inspect", there, "--version", "1.0.0")["manifest"]["labels"] == list(LABELS)
    assert ran(capsys, "release", "verify", there, "--root", made_keys / "1.root.json")["problems"] == []


def test_the_golden_file_holds_what_the_real_model_says(capsys, tmp_path, recipe_file):
    out = tmp_path / "built"
    ran(capsys, "release", "build", recipe_file, "--out", out)
    whole = manifest.decode((out / "manifest.json").read_bytes())
    cases = golden.decode((out / whole.golden.file.name).read_bytes())
    assert [case.id for case in cases] == ["high.png", "low.png", "middle.png"]
    top = 1 / (1 + 2 * 2.718281828459045**-12)  # softmax of (12, 0, 0): three bright pixels at weight 4
    for case in cases:
        assert case.expected["logits"][case.label] == pytest.approx(top, abs=1e-6)
        assert sum(case.expected["logits"]) == pytest.approx(1, abs=1e-5)


def test_a_build_is_reproducible(capsys, tmp_path):
    digests = set()
    for name in ("one", "two"):
        made = ran(capsys, "release", "build", real_recipe(tmp_path / name), "--out", tmp_path / f"built-{name}")
        digests.add(made["digest"])
    assert len(digests) == 1


def test_the_creation_time_is_part_of_the_digest(capsys, tmp_path, recipe_file, monkeypatch):
    first = ran(capsys, "release", "build", recipe_file, "--out", tmp_path / "one")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1780000001")
    assert ran(capsys, "release", "build", recipe_file, "--out", tmp_path / "two")["digest"] != first["digest"]


def test_a_label_that_the_real_model_does_not_give_is_refused_by_name(capsys, tmp_path, recipe_file):
    labels = recipe_file.parent / "golden" / "labels.json"
    labels.write_text(json.dumps({"low.png": 1, "middle.png": 0, "high.png": 2}))
    error = ran(capsys, "release", "build", recipe_file, "--out", tmp_path / "built", status=2)
    assert error["found"] == "low.png is middle, taken for low; middle.png is low, taken for middle"
    assert not (tmp_path / "built").exists()


def test_a_reference_that_is_no_model_is_a_clear_error(capsys, tmp_path, recipe_file):
    (recipe_file.parent / "model.onnx").write_bytes(b"not a model")
    error = ran(capsys, "release", "build", recipe_file, "--out", tmp_path / "built", status=4)
    assert "model.onnx" in error["what"]


def test_a_flipped_bit_makes_verify_fail_with_status_3(capsys, tmp_path, recipe_file, made_keys):
    out, there = tmp_path / "built", tmp_path / "repository"
    ran(capsys, "release", "build", recipe_file, "--out", out)
    for step in ("sign", "publish"):
        ran(capsys, "release", step, out, "--keys", made_keys, "--repository", there)
    victim = next(there.glob("targets/tiny/1.0.0/*model.onnx"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    error = ran(capsys, "release", "verify", there, status=3)
    assert (error["error"], "model.onnx is not what was signed" in error["found"]) == ("UntrustedRelease", True)


def test_keys_are_encrypted_private_and_never_overwritten(capsys, made_keys):
    assert stat.S_IMODE(made_keys.stat().st_mode) == 0o700
    names = sorted(path.name for path in made_keys.iterdir())
    assert names == ["1.root.json", "root-1.pem", "root-2.pem", "snapshot.pem", "targets.pem", "timestamp.pem"]
    for path in made_keys.glob("*.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert "not empty" in ran(capsys, "keys", "init", made_keys, status=2)["what"]
    assert ran(capsys, "keys", "show", made_keys)["roles"]["root"]["threshold"] == 2


def test_openssl_opens_the_keys(made_keys, needs):
    tool = shutil.which("openssl")
    needs(tool is not None, "openssl")
    done = subprocess.run(
        [tool, "pkey", "-in", str(made_keys / "targets.pem"), "-passin", f"pass:{PASSPHRASE}", "-noout", "-text"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ED25519" in done.stdout.upper()


def test_a_wrong_passphrase_is_a_clear_error(capsys, tmp_path, recipe_file, made_keys, monkeypatch):
    out = tmp_path / "built"
    ran(capsys, "release", "build", recipe_file, "--out", out)
    monkeypatch.setenv("SUREFOOT_PASSPHRASE", "wrong")
    error = ran(capsys, "release", "sign", out, "--keys", made_keys, "--repository", tmp_path / "there", status=2)
    assert "targets.pem" in error["what"] and "passphrase" in error["hint"]


def test_a_passphrase_file_is_read_and_an_empty_passphrase_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("SUREFOOT_PASSPHRASE")
    file = tmp_path / "passphrase"
    file.write_text("\n")
    arguments = ("keys", "init", tmp_path / "keys", "--passphrase-file", file)
    assert ran(capsys, *arguments, status=2)["what"] == "the passphrase is empty"
    assert not (tmp_path / "keys").exists()
    file.write_text("words of mine\n")
    assert ran(capsys, *arguments, "--root-keys", "1", "--root-threshold", "1")["root_version"] == 1


def test_a_file_too_long_for_a_passphrase_is_refused_as_the_callers_mistake(capsys, tmp_path, made_keys):
    file = tmp_path / "passphrase"
    file.write_text("x" * 4097)
    error = ran(capsys, "keys", "renew", made_keys, "--passphrase-file", file, status=2)
    assert "cannot read the passphrase" in error["what"] and "at most 4096" in error["found"]
    file.write_text("x" * 4096)  # the mutant: one byte less is read, and is only the wrong passphrase
    assert "cannot open the key" in ran(capsys, "keys", "renew", made_keys, "--passphrase-file", file, status=2)["what"]


def test_a_kit_is_sealed_and_verified_as_typed(capsys, tmp_path, recipe_file, made_keys):
    out, kit = tmp_path / "built", tmp_path / "kit"
    signing = ("--keys", made_keys, "--repository", kit / "repository")
    ran(capsys, "release", "build", recipe_file, "--out", out)
    ran(capsys, "release", "sign", out, *signing)
    ran(capsys, "release", "publish", out, *signing)
    sealed = ran(capsys, "kit", "seal", kit, "--keys", made_keys, "--platform", "generic", "--version", "0.1.0")
    assert sealed["platform"] == "generic"
    root = ("--root", made_keys / "1.root.json")
    assert ran(capsys, "kit", "verify", kit, *root)["fresh"] is True
    assert main(["kit", "verify", str(kit), *map(str, root)]) == 0
    assert "is whole: 8 files" in capsys.readouterr().out
    (kit / "extra").touch()
    assert "extra is not of this kit" in ran(capsys, "kit", "verify", kit, *root, status=3)["found"]


def test_without_environment_the_passphrase_is_asked_for_twice(tmp_path):
    """Asked on a real terminal: a pseudo one."""
    import pty

    environment = {name: value for name, value in os.environ.items() if name != "SUREFOOT_PASSPHRASE"}
    process, terminal = pty.fork()
    if process == 0:
        arguments = [
            "-m",
            "surefoot",
            "keys",
            "init",
            str(tmp_path / "keys"),
            "--root-keys",
            "1",
            "--root-threshold",
            "1",
        ]
        os.execve(sys.executable, [sys.executable, *arguments], environment)
    seen = b""
    answers = [b"some words\n", b"some words\n"]
    try:
        while True:
            seen += os.read(terminal, 1024)
            if answers and seen.endswith(b": "):  # the space comes once the terminal no longer echoes
                os.write(terminal, answers.pop(0))
                seen += b"|"
    except OSError:
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, seen
    assert b"some words" not in seen
    assert (tmp_path / "keys" / "1.root.json").exists()


def test_renewed_keys_reach_the_repository_by_refresh(capsys, tmp_path, recipe_file, made_keys):
    mine = shutil.copytree(made_keys, tmp_path / "keys")
    out, there = tmp_path / "built", tmp_path / "repository"
    signing = ("--keys", mine, "--repository", there)
    ran(capsys, "release", "build", recipe_file, "--out", out)
    for step in ("sign", "publish"):
        ran(capsys, "release", step, out, *signing)
    assert ran(capsys, "keys", "renew", mine, "--replace", "timestamp")["root_version"] == 2
    ran(capsys, "release", "refresh", *signing)
    assert (there / "metadata" / "2.root.json").exists()
    assert ran(capsys, "release", "verify", there, "--root", made_keys / "1.root.json")["problems"] == []


def test_people_get_tables(capsys, tmp_path, recipe_file, made_keys):
    out, there = tmp_path / "built", tmp_path / "repository"
    assert main(["release", "build", str(recipe_file), "--out", str(out)]) == 0
    for step in ("sign", "publish"):
        assert main(["release", step, str(out), "--keys", str(made_keys), "--repository", str(there)]) == 0
    assert main(["release", "inspect", str(out)]) == 0
    assert main(["release", "inspect", str(there)]) == 0
    assert main(["release", "verify", str(there)]) == 0
    text = capsys.readouterr().out
    for part in ("built tiny 1.0.0", "signed tiny 1.0.0", "published tiny 1.0.0", "VARIANT", "VERSION", "is whole"):
        assert part in text
