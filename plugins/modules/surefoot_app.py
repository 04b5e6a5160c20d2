#!/usr/bin/python
# Copyright: the Surefoot authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 Ansible reads the documentation before the imports
"""Ansible module: put an app beside the one that runs, and let it serve; the one before comes back if it does not."""

from __future__ import annotations

DOCUMENTATION = r"""
module: surefoot_app
short_description: Put the app onto a device, and let it serve
version_added: 0.1.0
description:
  - With V(present), an app is brought beside the one that runs, proved by running its C(surefoot doctor), and made
    durable.
  - With V(active), it is switched to by one rename, the service is restarted, and it must answer as that version. If
    it does not, the app that served before is switched back to and must answer, and the task fails with the reason.
  - What the running app and the one to return to do not need is removed after the new one has answered.
author:
  - The Surefoot authors (@surefoot)
attributes:
  check_mode:
    description: Can run in check mode and return the changed status prediction without changing anything.
    support: full
  diff_mode:
    description: Returns the running app and the one to return to, before and after.
    support: full
  platform:
    description: Where the module runs.
    support: full
    platforms: posix
requirements:
  - systemd. Docker Engine for O(engine=docker), C(python3-venv) for O(engine=systemd).
  - Root.
options:
  id:
    description: The app, as the lookup P(surefoot.edge.app_artifact#lookup) calls it.
    type: str
    required: true
  state:
    description: V(present) is beside the one that runs, V(active) serves.
    type: str
    choices: [present, active]
    default: active
  engine:
    description: V(docker) runs an image, V(systemd) a virtual environment.
    type: str
    choices: [docker, systemd]
    required: true
  folder:
    description: Where the apps of the device are.
    type: path
    default: /data/surefoot/apps
  artifact:
    description:
      - Path on the device of the archive, for O(state=present).
      - Without it, an image that the engine holds already is proved; RV(taken) says whether that was enough.
    type: path
  transferred:
    description: The folder that O(artifact) was copied into, removed in the end.
    type: path
  images:
    description: Digests that the engine may know the image by.
    type: list
    elements: str
    default: []
  python:
    description: The interpreter that environments are made with.
    type: path
    default: /usr/bin/python3
  user_id:
    description: Number of the user that the app runs as.
    type: int
    default: 10001
  config:
    description: A link that is kept on the configuration of the running app, for O(state=active).
    type: path
    default: /data/surefoot/surefoot.toml
  run_dir:
    description: The app's run directory.
    type: path
    default: /run/surefoot
  service:
    description: The unit of systemd that runs the app.
    type: str
    default: surefoot.service
  started_with:
    description:
      - What the service has to note of what it was started with. Where it noted something else, it is restarted.
    type: str
    default: ""
  timeout:
    description: Seconds that a new app may take to answer, and to prove itself.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Bring an image beside the app that runs
  surefoot.edge.surefoot_app:
    id: 0.1.0-766d4f6d59f1
    state: present
    engine: docker
    artifact: /media/usb/surefoot-0.1.0-rpi.docker.tar
    images: ["sha256:766d4f6d59f159df29bd687b32ff42993aed3a40720714af7f32b66c83ad6315"]

- name: Let it serve
  surefoot.edge.surefoot_app:
    id: 0.1.0-766d4f6d59f1
    engine: docker
"""

RETURN = r"""
why:
  description: The reason for what was done, or for doing nothing.
  returned: always
  type: str
  sample: 0.1.0-766d4f6d59f1 serves, 0.2.0-1f0a27c19e9b is wanted
taken:
  description: Whether the app is there, whole and proved. False where an archive is needed.
  returned: with V(present)
  type: bool
before:
  description: The running app, the one to return to, and all that are there.
  returned: always
  type: dict
  sample: {"current": "0.1.0-766d4f6d59f1", "before": null, "there": ["0.1.0-766d4f6d59f1"]}
after:
  description: The same after the task. In check mode, what it would be.
  returned: success
  type: dict
  sample: {"current": "0.2.0-1f0a27c19e9b", "before": "0.1.0-766d4f6d59f1", "there": []}
error:
  description: What failed, what was found, what was expected and what to do.
  returned: failure
  type: dict
"""

import json
import os
import shutil
import socket
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.surefoot.edge.plugins.module_utils.app_engines import Environments, Images, run
from ansible_collections.surefoot.edge.plugins.module_utils.app_store import AppError, Apps

MOST_ANSWER_BYTES = 64 * 1024
ANSWER_TIMEOUT_S = 5.0
LINES_OF_THE_JOURNAL = 15


def view(apps):
    """What a person wants to know of the apps there."""
    folders = (path.parent for path in apps.folder.glob("*/complete"))
    there = sorted(path.name for path in folders if not path.is_symlink())  # `current` is one of them by another name
    return {"current": apps.current, "before": apps.before, "there": there}


def running_version(run_dir):
    """The version that the gateway says it is, asked as a client asks; empty where it does not answer."""
    try:
        with socket.socket(socket.AF_UNIX) as gateway:
            gateway.settimeout(ANSWER_TIMEOUT_S)
            gateway.connect(str(run_dir / "http.sock"))
            gateway.sendall(b"GET /v2 HTTP/1.1\r\nHost: surefoot\r\nConnection: close\r\n\r\n")
            answer = b""
            while len(answer) < MOST_ANSWER_BYTES:
                part = gateway.recv(4096)
                if not part:
                    break
                answer += part
        return str(json.loads(answer.partition(b"\r\n\r\n")[2])["version"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


class Service:
    """The unit that runs the app."""

    def __init__(self, options):
        self._unit = options["service"]
        self._run_dir = Path(options["run_dir"])
        self._timeout_s = options["timeout"]
        self._begun = int(time.time())

    def is_enabled(self):
        """Whether it starts at boot."""
        return run(["systemctl", "is-enabled", self._unit]).out.strip() == "enabled"

    def started_with(self):
        """What it noted of what it was started with; empty where it does not run."""
        if run(["systemctl", "is-active", self._unit]).out.strip() != "active":
            return ""
        try:
            return (self._run_dir / "started-with").read_text(encoding="utf-8").split()[0]
        except (OSError, LookupError, ValueError):
            return ""

    def restart(self, version):
        """Start it anew. Returns what is wrong, empty where it answers as that version."""
        run(["systemctl", "daemon-reload"])
        done = run(["systemctl", "restart", self._unit], self._timeout_s + 120.0)
        if done.status != 0:
            return f"{self._unit} did not start: {self._last_words()}"
        deadline = time.monotonic() + self._timeout_s
        while True:
            found = running_version(self._run_dir)
            if found == version:
                return ""
            if time.monotonic() > deadline:
                return (
                    f"version {found or 'none'} answers after {self._timeout_s} s, not {version}: {self._last_words()}"
                )
            time.sleep(0.2)

    def _last_words(self):
        said = run([
            "journalctl", "--quiet", "--no-pager", "--output=cat", f"--since=@{self._begun}",
            f"--lines={LINES_OF_THE_JOURNAL}", f"_SYSTEMD_UNIT={self._unit}", "+",
            f"CONTAINER_NAME={self._unit.partition('.')[0]}",
        ])  # fmt: skip
        return " | ".join(said.out.split("\n"))[-1500:].strip(" |") or "it said nothing"


def present(module, _apps, engine):
    """Bring the app beside the one that runs."""
    options = module.params
    app = options["id"]
    if engine.has(app):
        return {"changed": False, "taken": True, "why": f"{app} is there"}
    if module.check_mode:
        return {"changed": True, "taken": True, "why": f"{app} is not there"}
    try:
        taken = engine.take(app, Path(options["artifact"]) if options["artifact"] else None)
    finally:
        if options["transferred"]:
            shutil.rmtree(options["transferred"], ignore_errors=True)
    if not taken:
        return {"changed": False, "taken": False, "why": f"{app} is not there whole, and no archive was given"}
    return {"changed": True, "taken": True, "why": f"{app} was brought and proved"}


def version_of(app):
    """The version in an app's name."""
    return app.rpartition("-")[0]


def reasons(apps, service, options):
    """Why something has to be done, none where nothing has."""
    app = options["id"]
    found = []
    if apps.current != app:
        found.append(f"{apps.current or 'nothing'} serves, {app} is wanted")
    if not service.is_enabled():
        found.append(f"{options['service']} is not enabled")
    noted = service.started_with()
    if not noted:
        found.append("the app does not run")
    elif noted != options["started_with"]:
        found.append("the app was started with other settings")
    elif not running_version(Path(options["run_dir"])):
        found.append("the app does not answer")
    return found


def active(module, apps, engine):
    """Let the app serve, or the one before it again."""
    options = module.params
    app = options["id"]
    service = Service(options)
    why = reasons(apps, service, options)
    if not why or module.check_mode:
        return {"changed": bool(why), "why": "; ".join(why) or f"{app} serves"}
    good = apps.good if apps.is_("complete", apps.good) else None
    apps.switch(app)
    apps.link(Path(options["config"]), apps.folder / "current" / "surefoot.toml")
    run(["systemctl", "enable", options["service"]])
    wrong = service.restart(version_of(app))
    if wrong:
        go_back(apps, service, app, good, wrong)
    apps.mark("confirmed", app)
    for spare in apps.spare():
        engine.remove(spare)
    return {"changed": True, "why": "; ".join(why)}


def go_back(apps, service, app, good, wrong):
    """Return to what answered before. Raises AppError, always."""
    what = f"app {app} does not answer"
    if good is None or good == app:
        hint = "there is no other app to return to: see the device's journal, mend it and deploy again"
        raise AppError(what, found=wrong, expected=f"version {version_of(app)}", hint=hint)
    apps.switch(good)
    apps.unmark("complete", app)  # proved anew before it is tried again
    again = service.restart(version_of(good))
    if again:
        hint = "nothing answers: see the device's journal"
        raise AppError(f"{what}, and {good} does not answer again", found=f"{wrong}; then {again}", hint=hint)
    raise AppError(what, found=wrong, expected=f"version {version_of(app)}", hint=f"returned to {good}, which answers")


def main():
    """One task: gather what happened, and leave by the last line."""
    module = AnsibleModule(
        argument_spec={
            "id": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "active"], "default": "active"},
            "engine": {"type": "str", "choices": ["docker", "systemd"], "required": True},
            "folder": {"type": "path", "default": "/data/surefoot/apps"},
            "artifact": {"type": "path"},
            "transferred": {"type": "path"},
            "images": {"type": "list", "elements": "str", "default": []},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "user_id": {"type": "int", "default": 10001},
            "config": {"type": "path", "default": "/data/surefoot/surefoot.toml"},
            "run_dir": {"type": "path", "default": "/run/surefoot"},
            "service": {"type": "str", "default": "surefoot.service"},
            "started_with": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    options = module.params
    apps = Apps(Path(options["folder"]))
    if options["engine"] == "docker":
        engine = Images(apps, options["images"], options["timeout"])
    else:
        engine = Environments(apps, Path(options["python"]), options["user_id"], options["timeout"])
    result = {"changed": False, "why": "", "before": view(apps)}
    do = {"present": present, "active": active}[options["state"]]
    try:
        if module.check_mode and not apps.folder.is_dir():
            result.update(do(module, apps, engine))
        else:
            with apps.alone():
                result.update(do(module, apps, engine))
    except AppError as failure:
        result.update(error=failure.error, msg=str(failure))
    except OSError as failure:
        error = AppError("the device's disk does not take it", found=str(failure), hint="see its journal")
        result.update(error=error.error, msg=str(error))
    result["after"] = view(apps)
    if module.check_mode and result["changed"]:
        wanted = {"there": sorted({*result["after"]["there"], options["id"]})}
        if options["state"] == "active" and apps.current != options["id"]:
            wanted.update(current=options["id"], before=apps.current)
        result["after"].update(wanted)
    headers = {"before_header": "apps (before)", "after_header": "apps (after)"}
    result["diff"] = dict(headers, **{when: json.dumps(result[when], indent=2) + "\n" for when in ("before", "after")})
    (module.fail_json if "error" in result else module.exit_json)(**result)


if __name__ == "__main__":
    os.umask(0o022)
    main()
