"""The engine `launchd`, on this machine: the bundle's real installer and the real app, launchctl a double.

Not verified on a Mac.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from images import bundle
from images.wheels.check import read_lock
from tests.images.macs import HERE, INSIDE, LABEL, MAC, ROOT, Mac, small_bundle
from tests.roles.controller import Controller, Played

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bundles for this machine, with a Mac's installer and without runtimes."""
    folder = tmp_path_factory.mktemp("bundle")
    runtimes = {"onnxruntime", "ai-edge-litert", "ml-dtypes", "protobuf"}
    lock = (ROOT / "requirements" / "device.lock").read_text()
    pins = [str(pin) for name, pin in read_lock(lock, HERE).items() if name not in runtimes]
    (folder / "lock").write_text("".join(pins))
    cache = ROOT / "build" / "wheels" / "here-lean"
    other = folder / "inside"
    shutil.copytree(INSIDE, other)
    (other / "README.txt").write_text("another bundle\n")
    made = [
        bundle.build(HERE, folder / "lock", cache, folder / name, app="surefoot", inside=inside)[0]
        for name, inside in (("first", INSIDE), ("second", other))
    ]
    return made[0], made[1]


@pytest.fixture
def archive(archives: tuple[Path, Path]) -> Path:
    return archives[0]


@pytest.fixture
def mac(tmp_path: Path, controller: Controller, archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mac]:
    """A device where nothing is installed, and variables for it."""
    made = Mac(tmp_path / "mac")
    monkeypatch.setenv("PATH", f"{made.bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.setenv("LAUNCHD_DOUBLE", str(made.launchd))
    controller.variables.update(
        inference_app_engine="launchd",
        inference_app_bundle=str(archive),
        inference_app_data_dir=str(made.data),
        inference_app_run_dir=str(made.data / "run"),
        inference_app_launchd_root=str(made.app),
        inference_app_http_port=0,
    )
    yield made
    made.run(made.app / "current" / "uninstall.sh")


def play(controller: Controller, *arguments: str, entry: str = "main", **more: object) -> Played:
    role = {"name": "surefoot.edge.inference_app", "tasks_from": entry}
    tasks = [{"ansible.builtin.import_role": role}]
    variables = {**controller.variables, **more}
    whole = {"hosts": "surefoot", "gather_facts": False, "vars": variables, "tasks": tasks}
    playbook = controller.folder / "play.yml"
    playbook.write_text(yaml.safe_dump([whole]))
    return controller.play_file(playbook, *arguments)


def good(played: Played) -> Played:
    assert played.status == 0, played.out
    return played


def changes(mac: Mac) -> list[str]:
    return [call.split()[0] for call in mac.calls() if not call.startswith("print ")]


def test_a_bundle_is_installed_configured_and_removed_each_once(mac: Mac, controller: Controller) -> None:
    foretold = good(play(controller, "--check"))
    assert not mac.app.exists()
    first = good(play(controller))
    assert first.changed == foretold.changed
    assert mac.calls()[-1] == f"kickstart -k gui/{os.getuid()}/{LABEL}"
    assert not (mac.data / "apps" / ".transfer").exists() or list((mac.data / "apps" / ".transfer").iterdir()) == []
    assert good(play(controller)).changed == []

    asked = subprocess.run([mac.app / "surefoot", "status", "--json"], capture_output=True, text=True, check=False)
    assert '"version":"0.1.0"' in asked.stdout.replace(" ", ""), asked.stderr

    (mac.launchd / "calls").unlink()
    changed = good(play(controller, inference_app_http_queue_depth=32)).changed
    assert "Write the configuration" in changed
    assert changes(mac) == ["kickstart"]
    assert "queue_depth = 32" in (mac.data / "surefoot.toml").read_text()

    foretold = good(play(controller, "--check", entry="remove"))
    removed = good(play(controller, entry="remove"))
    assert "Let the bundle uninstall itself" in removed.changed
    assert removed.changed == foretold.changed
    assert not mac.app.exists()
    assert (mac.data / "surefoot.toml").exists()
    assert good(play(controller, entry="remove")).changed == []


def test_another_bundle_serves_and_the_one_before_comes_back_with_its_data_even_after_a_removal(
    mac: Mac, controller: Controller, archives: tuple[Path, Path]
) -> None:
    first, second = map(str, archives)

    def now() -> Path:
        return (mac.app / "current").resolve()

    good(play(controller))
    before = now()
    for step, wanted in enumerate((second, first)):
        foretold = good(play(controller, "--check", inference_app_bundle=wanted))
        assert (now() == before) == (step == 0)
        played = good(play(controller, inference_app_bundle=wanted))
        assert "Let the bundle install itself" in played.changed
        assert played.changed == foretold.changed
        assert (now() == before) == (step == 1)
        assert good(play(controller, inference_app_bundle=wanted)).changed == []
    good(play(controller, entry="remove"))
    assert "Let the bundle install itself" in good(play(controller)).changed
    assert good(play(controller)).changed == []


def test_a_bundle_for_another_machine_is_refused_before_it_is_copied(
    mac: Mac, controller: Controller, tmp_path: Path
) -> None:
    bundle.pack(small_bundle(tmp_path, MAC), tmp_path / "other.tar.gz", 0)
    played = play(controller, inference_app_bundle=str(tmp_path / "other.tar.gz"))
    assert played.status != 0
    assert "found bundle for Darwin arm64" in " ".join(played.out.split())
    assert played.changed == []
    assert not mac.base.exists()
