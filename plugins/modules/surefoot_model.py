#!/usr/bin/python
# Copyright: the Surefoot authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 Ansible reads the documentation before the imports
"""Ansible module: bring a device to a model version, by its own ``surefoot`` command."""

from __future__ import annotations

DOCUMENTATION = r"""
module: surefoot_model
short_description: Bring a device to a version of a model, or back from it
version_added: 0.1.0
description:
  - Reads what the device holds, works out the steps, takes them by the device's own C(surefoot model) commands and
    reads the result back.
  - A release that does not verify, does not fit or does not pass its gate changes nothing. What served goes on serving.
author:
  - The Surefoot authors (@surefoot)
attributes:
  check_mode:
    description:
      - Can run in check mode and return the changed status prediction without moving a slot.
      - A release that would be installed is looked up in the repository and verified, unless the device has no
        configuration yet. Newer trust metadata that is seen on the way may be kept.
    support: full
  diff_mode:
    description: Returns what serves, is installed and can be returned to, before and after.
    support: full
  platform:
    description: Where the module runs.
    support: full
    platforms: posix
requirements:
  - The C(surefoot) command on the device.
options:
  name:
    description: Name of the model.
    type: str
    required: true
  state:
    description:
      - V(present) puts the release into a slot and makes it pass its gate. Traffic does not move.
      - V(active) makes it serve and waits until its trial is confirmed.
      - V(rolled_back) returns to a release that was confirmed before. Where an earlier rollback still holds the device,
        nothing more is done unless O(version) names another one.
      - V(absent) removes the model, and with it all that a rollback could return to.
    type: str
    choices: [present, active, rolled_back, absent]
    default: active
  version:
    description:
      - The release, as MAJOR.MINOR.PATCH. V(latest) takes the newest of the repository.
      - With O(state=rolled_back), the release to return to, instead of O(steps).
    type: str
  repository:
    description:
      - Path on the device, or URL, of the release repository.
      - Needed where a release is not yet on the device, and for V(latest).
    type: str
  root:
    description:
      - Path on the device of the first trusted C(root.json).
      - A device keeps the first one that it is given and refuses another.
    type: path
  root_content:
    description:
      - The first trusted C(root.json) itself. It is written to O(root) on a device that has no such file yet.
    type: str
  run_dir:
    description:
      - The app's run directory on the device. Where it is given, the app is asked over HTTP, as a client asks, which
        version of the model it serves; an app that does not answer is a failure.
    type: path
  config:
    description: Path on the device of C(surefoot.toml).
    type: path
    default: /data/surefoot/surefoot.toml
  executable:
    description: The C(surefoot) command on the device, as a path or as a name that is looked up in E(PATH).
    type: path
    default: surefoot
  steps:
    description: How many confirmed releases to go back with O(state=rolled_back).
    type: int
    default: 1
  timeout:
    description:
      - Seconds that all steps together may take, waiting for the trial included.
      - A step that is cut off leaves the device as any interruption does, serving what it served.
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: Bring the classifier to a version
  surefoot.edge.surefoot_model:
    name: fashion-mnist
    version: 2.0.0
    repository: https://releases.example.com/surefoot
    root: /data/surefoot/first-root.json

- name: Bring a release onto the device ahead of time
  surefoot.edge.surefoot_model:
    name: fashion-mnist
    state: present
    version: latest
    repository: /media/usb/repository

- name: Go back to what was confirmed before
  surefoot.edge.surefoot_model:
    name: fashion-mnist
    state: rolled_back

- name: Go back to a certain release
  surefoot.edge.surefoot_model:
    name: fashion-mnist
    state: rolled_back
    version: 1.0.0

- name: Take the model off the device
  surefoot.edge.surefoot_model:
    name: fashion-mnist
    state: absent
"""

RETURN = r"""
why:
  description: The reason for what was done, or for doing nothing.
  returned: always
  type: str
  sample: 1.0.0 serves, 2.0.0 is in no slot
steps:
  description: The commands that were run, or would be, in order.
  returned: always
  type: list
  elements: str
  sample: [install 2.0.0, activate 2.0.0, confirm 2.0.0]
version:
  description: The version that O(version) came to, which matters for V(latest). Null where none was asked for.
  returned: always
  type: str
  sample: 2.0.0
answers:
  description: Where the app answers, and the versions of the model that it says it serves, none where it has none.
  returned: where O(run_dir) is given, but in check mode
  type: dict
  sample: {"url": "http://127.0.0.1:8080", "versions": ["2.0.0"]}
before:
  description: What the device served, held and could return to.
  returned: always
  type: dict
  sample: {"serves": "1.0.0 (confirmed)", "installed": ["1.0.0"], "returns_to": null, "held": false}
after:
  description: The same after the steps, read back from the device. In check mode, what it would be.
  returned: success
  type: dict
  sample: {"serves": "2.0.0 (confirmed)", "installed": ["1.0.0", "2.0.0"], "returns_to": "1.0.0", "held": false}
state_after:
  description: All that C(surefoot model status --json) said last. After a failure it shows what goes on serving.
  returned: when the device could be read
  type: dict
error:
  description: The error as C(surefoot --json) gave it.
  returned: failure
  type: dict
  contains:
    error: {description: The family of the error., type: str, returned: failure, sample: UntrustedRelease}
    what: {description: What failed., type: str, returned: failure}
    found: {description: What was there., type: str, returned: failure}
    expected: {description: What should have been., type: str, returned: failure}
    hint: {description: What to do next., type: str, returned: failure}
"""

import atexit
import http.client
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.surefoot.edge.plugins.module_utils.model_plan import (
    LATEST,
    NOTHING,
    PlanError,
    Wanted,
    plan,
    predict,
    view,
)

# `confirm` must give up, and say why, before this module cuts it off.
MARGIN_S = 5
MOST_OUTPUT_BYTES = 1024 * 1024
ANSWER_TIMEOUT_S = 30


class CommandError(Exception):
    """A command of the device said no. ``error`` is what it said."""

    def __init__(self, error):
        super().__init__(error["what"])
        self.error = error


class Surefoot:
    """The device's ``surefoot model`` commands, each with what is left of the task's time."""

    def __init__(self, module):
        self._module = module
        self._options = module.params
        self._root = module.params["root"]
        self._deadline = time.monotonic() + module.params["timeout"]

    def left_s(self):
        """Seconds until the task's time is over, at least 0."""
        return max(0.0, self._deadline - time.monotonic())

    def status(self):
        """What the device holds of the model, NOTHING where it never heard of it. Raises CommandError."""
        models = self._run("status")["models"]
        return next((model for model in models if model["name"] == self._options["name"]), dict(NOTHING))

    def model(self, verb, *arguments):
        """Run one command on the model and return its JSON. Raises CommandError."""
        return self._run(verb, self._options["name"], *arguments)

    def _run(self, verb, *arguments):
        command = [self._options["executable"], "--config", self._options["config"], "model", verb]
        command += [*arguments, "--json"]
        late = threading.Event()

        def watch(process):
            def cut_off():
                late.set()
                process.kill()

            timer = threading.Timer(self.left_s(), cut_off)
            timer.daemon = True
            timer.start()

        returned, out, err = self._module.run_command(
            command, before_communicate_callback=watch, handle_exceptions=False
        )
        if late.is_set() and returned:
            raise CommandError(
                _error(
                    f"surefoot model {verb} did not finish in time",
                    found=f"cut off after the task's {self._options['timeout']} s",
                    expected="an answer",
                    hint="raise timeout; the device recovers by itself",
                )
            )
        try:
            answer = json.loads(out[:MOST_OUTPUT_BYTES])
        except ValueError:
            answer = None
        if returned == 0 and isinstance(answer, dict):
            return answer
        if isinstance(answer, dict) and answer.get("what"):
            raise CommandError(dict(_error(""), **answer))
        raise CommandError(
            _error(
                f"surefoot model {verb} did not answer as it should",
                found=f"exit status {returned}: {(err or out).strip()[-500:]}",
                expected="one JSON object",
                hint=f"run it on the device: {' '.join(command)}",
            )
        )

    def repository(self):
        """The arguments that name where a release comes from and what to trust."""
        arguments = ["--repository", self._options["repository"] or ""]
        if self._root:
            arguments += ["--root", self._root]
        return arguments

    def give_root(self):
        """Write the first root of trust where there is none. Returns whether it was, or would be, written."""
        content = self._options["root_content"]
        if not content or not self._root or Path(self._root).exists():
            return False
        if self._module.check_mode:
            # What would be there, for looking a release up. The command may give up root, and has to read it then.
            folder = Path(tempfile.mkdtemp(prefix="surefoot-root-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            folder.chmod(0o755)
            shown = folder / "root.json"
            shown.write_text(content, encoding="utf-8")
            shown.chmod(0o644)
            self._root = str(shown)
            return True
        descriptor, path = tempfile.mkstemp(dir=self._module.tmpdir)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
        self._module.atomic_move(path, self._root)
        self._module.set_mode_if_different(self._root, 0o644, False)
        return True

    def answers(self):
        """Ask the app as a client does. Raises CommandError."""
        url, body = "", b""
        try:
            url = json.loads((Path(self._options["run_dir"]) / "endpoint.json").read_bytes())["url"]
            server = http.client.HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_TIMEOUT_S)
            server.request("GET", f"/v2/models/{self._options['name']}")
            body = server.getresponse().read(MOST_OUTPUT_BYTES)
            return {"url": url, "versions": list(json.loads(body).get("versions", []))}
        except (OSError, ValueError, LookupError, AttributeError, TypeError, http.client.HTTPException) as failure:
            raise CommandError(
                _error(
                    "the app does not answer its clients",
                    found=f"{failure!r} {body[:200]!r}" if body else repr(failure),
                    expected=f"an answer at {url or self._options['run_dir']}",
                    hint="deploy the app (role surefoot.edge.inference_app); surefoot status says more",
                )
            ) from failure

    def look_up(self, version):
        """Verify that the repository has a release this device would take, and return its version."""
        return self.model("plan", "--version", version, *self.repository())["version"]

    def take(self, step):
        """Run the command of one step."""
        if step.verb == "install":
            self.model("install", "--version", step.version, *self.repository())
        elif step.verb == "activate":
            self.model("activate", "--version", step.version)
        elif step.verb == "confirm":
            self.model("confirm", "--wait", str(int(max(0, self.left_s() - MARGIN_S))))
        elif step.verb == "rollback":
            self.model("rollback", "--steps", str(step.steps), "--reason", "asked for by Ansible")
        else:
            self.model("remove", "--yes")


def bring(module, surefoot, result):
    """Read, plan, apply unless in check mode, read back. Fills ``result``; raises CommandError or PlanError."""
    options = module.params
    # A first deploy in check mode: app and configuration are not there yet, since nothing was written.
    blank = module.check_mode and not Path(options["config"]).exists()
    if not blank and shutil.which(options["executable"]) is None:
        raise PlanError(
            "surefoot cannot be run on the device",
            found=f"no command {options['executable']}",
            expected="the surefoot command of the app",
            hint="deploy the app first (role surefoot.edge.inference_app), or set executable",
        )
    status = dict(NOTHING) if blank else surefoot.status()
    result["state_after"] = status
    result["before"] = view(status)
    version = options["version"]
    given = surefoot.give_root()
    if version == LATEST and not blank:
        if not options["repository"]:
            raise PlanError("the latest release cannot be looked up", found="no repository", hint="set repository")
        version = surefoot.look_up(LATEST)
    result["version"] = version

    wanted = Wanted(options["state"], version, options["steps"], options["repository"])
    made = plan(status, wanted)
    result["why"] = made.why
    result["steps"] = [str(step) for step in made.steps]
    expected = predict(status, made.steps)
    if module.check_mode:
        if made.steps and made.steps[0].verb == "install" and not blank:
            surefoot.look_up(version)
        result["after"] = expected
    else:
        result["changed"] = given
        _apply(surefoot, made, result)
        if made.steps:
            status = surefoot.status()
        result["state_after"] = status
        result["after"] = view(status)
        _read_back(status, wanted, expected)
        if options["run_dir"]:
            result["answers"] = surefoot.answers()
    result["changed"] = given or bool(made.steps)


def _apply(surefoot, made, result):
    for step in made.steps:
        surefoot.take(step)
        result["changed"] = True


def _read_back(status, wanted, expected):
    """Every step said yes: is the device where it should be? (A switch can report success and do nothing.)"""
    seen = view(status)
    if seen["serves"] == expected["serves"] and (wanted.state != "present" or wanted.version in seen["installed"]):
        return
    raise PlanError(
        "every step succeeded and yet the device is not where it should be",
        found=f"{seen['serves'] or 'nothing'} serves, in the slots: {', '.join(seen['installed']) or 'nothing'}",
        expected=f"{wanted.state} {wanted.version or ''}, with {expected['serves'] or 'nothing'} serving",
        hint="surefoot model history tells what else happened",
    )


def _error(what, found="", expected="", hint=""):
    return {"error": "DeviceUnable", "what": what, "found": found, "expected": expected, "hint": hint}


def _sentence(error, status):
    parts = [error["what"]]
    for label, field in (("found", "found"), ("expected", "expected"), ("what to do", "hint")):
        if error.get(field):
            parts.append(f"{label}: {error[field]}")
    if status:
        parts.append(f"serving now: {view(status)['serves'] or 'nothing'}")
    return "; ".join(parts)


def main():
    """One task: gather what happened, and leave by the last line."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "active", "rolled_back", "absent"], "default": "active"},
            "version": {"type": "str"},
            "repository": {"type": "str"},
            "root": {"type": "path"},
            "root_content": {"type": "str"},
            "run_dir": {"type": "path"},
            "config": {"type": "path", "default": "/data/surefoot/surefoot.toml"},
            "executable": {"type": "path", "default": "surefoot"},
            "steps": {"type": "int", "default": 1},
            "timeout": {"type": "int", "default": 600},
        },
        required_if=[("state", "present", ["version"]), ("state", "active", ["version"])],
        supports_check_mode=True,
    )
    surefoot = Surefoot(module)
    result = {"changed": False, "why": "", "steps": [], "version": None}
    try:
        bring(module, surefoot, result)
    except (CommandError, PlanError) as failure:
        result["error"] = failure.error
    except OSError as failure:
        hint = "set executable to the surefoot command of the device"
        result["error"] = _error("surefoot cannot be run", str(failure), module.params["executable"], hint)

    if "error" in result:
        try:
            result["state_after"] = surefoot.status()
            result["after"] = view(result["state_after"])
        except (CommandError, OSError):
            result.pop("state_after", None)
        result["msg"] = _sentence(result["error"], result.get("state_after"))
    if "before" in result and "after" in result:
        result["diff"] = {
            "before_header": f"{module.params['name']} (before)",
            "after_header": f"{module.params['name']} (after)",
            "before": json.dumps(result["before"], indent=2) + "\n",
            "after": json.dumps(result["after"], indent=2) + "\n",
        }
    (module.fail_json if "error" in result else module.exit_json)(**result)


if __name__ == "__main__":
    main()
