"""Devices of a test, and the inventory that names them: real hosts, through the real playbooks."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.parts import artifacts, asking, hosts
from tests.parts.docker import Engine
from tests.parts.hosts import Host
from tests.roles.controller import Controller, Played

MODEL = "fashion-mnist"
SERVES_WITHIN_S = 90
# Ansible's own folder, logs, and what systemd and apt keep for themselves.
PASSING = (
    "/home/fleet",
    "/root",
    "/run",
    "/tmp",
    "/var/log",
    "/var/tmp",
    "/var/lib/systemd",
    "/var/lib/apt",
    "/var/cache",
)
ENGINES: dict[str, dict[str, Any]] = {
    "docker": {
        "surefoot_roles": ["base", "data_partition", "container_engine"],
        "inference_app_engine": "docker",
    },
    "systemd": {
        "surefoot_roles": ["base", "data_partition"],
        "inference_app_engine": "systemd",
    },
}


@dataclass
class Fleet:
    """Devices by their names in the inventory. ``prefix`` makes the names of their containers the test's own."""

    engine: Engine
    controller: Controller
    prefix: str
    devices: dict[str, Host] = field(default_factory=dict)
    variables: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(
        self,
        name: str,
        kind: str,
        *options: str,
        image: str = "device",
        data: str = "--volume=/data",
        repository: bool = True,
        **variables: Any,
    ) -> Host:
        """Start a device.

        Args:
            name: in the inventory.
            kind: the engine that the app runs by, ``docker`` or ``systemd``.
            options: more of ``docker run``.
            image: ``bare`` or ``device``, see tests/parts/host/image.
            data: where its /data is.
            repository: whether it finds the signed releases at /srv/artifacts.
            variables: of the inventory.
        """
        more = [f"--volume={artifacts.FOLDER}:/srv/artifacts:ro"] if repository else []
        host = hosts.up(self.engine, f"{self.prefix}-{name}", image, data, *more, *options)
        archive = (
            {"inference_app_image": str(artifacts.image())}
            if kind == "docker"
            else {"inference_app_bundle": str(artifacts.bundle())}
        )
        self.devices[name] = host
        self.variables[name] = {**host.variables, **ENGINES[kind], **archive, **variables}
        return host

    def add_many(self, kinds: dict[str, str]) -> None:
        """Start devices side by side."""
        for make in (artifacts.image, artifacts.bundle):
            make()
        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(self.add, name, kind) for name, kind in kinds.items()]:
                future.result()

    @property
    def inventory(self) -> Path:
        path = self.controller.folder / "fleet.yml"
        repository = artifacts.repository("patient")
        seen = Path("/srv/artifacts") / repository.relative_to(artifacts.FOLDER)
        shared = {
            "ansible_become": True,
            "data_partition_kind": "directory",
            "surefoot_version": "1.0.0",
            "model_slots_models": [{"name": MODEL, "version": "{{ surefoot_version }}"}],
            "model_slots_repository": str(seen),
            "model_slots_root": str(repository / "metadata" / "1.root.json"),
            # A trial that a test waits out, and drains that have nothing to wait for.
            "inference_app_trial_min_seconds": 0,
            "inference_app_trial_min_inferences": 1,
            "inference_app_http_drain_timeout_s": 2,
        }
        # In the order of their names, which is the order of the waves.
        named = {name: self.variables[name] for name in sorted(self.variables)}
        path.write_text(json.dumps({"surefoot": {"hosts": named, "vars": shared}}))
        return path

    def play(self, playbook: str, *arguments: str, **more: Any) -> Played:
        return self.controller.play(playbook, *arguments, inventory=self.inventory, **more)

    def good(self, playbook: str, *arguments: str, **more: Any) -> Played:
        played = self.play(playbook, *arguments, **more)
        assert played.status == 0, played.out
        return played

    def run(self, name: str, script: str, check: bool = True) -> str:
        """A line of shell on a device, as its root, past all that Ansible does."""
        inside = ("exec", hosts.PREFIX + self.devices[name].instance, "sh", "-c", script)
        return self.engine.docker(*inside, check=check).stdout.strip()

    def written(self, name: str) -> set[str]:
        """What of a device's disk is another than it was when it was started, but for what is written all the time."""
        seen = self.engine.docker("diff", hosts.PREFIX + self.devices[name].instance).stdout.splitlines()
        data = self.run(name, "find /data | sort").splitlines()
        return {line for line in [*seen, *data] if not line.removeprefix("A ").removeprefix("C ").startswith(PASSING)}

    def serves(self, name: str, within_s: float = SERVES_WITHIN_S) -> str:
        """The version that answers, to a client from outside; it names the pictures rightly."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                answered = asking.ask(self.devices[name])
                assert answered["right"] >= 9, answered
                return str(answered["version"])
            except Exception as error:  # whatever it was, this device has not answered
                if time.monotonic() > deadline:
                    status = self.run(name, "systemctl status surefoot; journalctl --lines 30 --no-pager", check=False)
                    raise AssertionError(f"{name} does not answer: {error!r}\n{status}") from error
                time.sleep(0.5)

    def down(self) -> None:
        for host in self.devices.values():
            hosts.down(self.engine, host.instance)


@contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[Path]:
    """A file system of its own, ext4, of so many MiB."""
    image, place = folder.with_suffix(".img"), folder
    with image.open("wb") as stream:
        stream.truncate(size_mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop,noatime", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        image.unlink()
