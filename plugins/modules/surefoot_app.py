#!/usr/bin/python
# Copyright: the Surefoot authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 Ansible reads the documentation before the imports
"""Ansible module: put an app beside the one that runs, and let it serve; the one before comes back if it does not."""

from __future__ import annotations

DOCUMENTATION = r"""
module: surefoot_app
short_description: Put the app onto a device, let it serve, or return to the one before
version_added: 0.1.0
description:
  - With V(present), an app is brought beside the one that runs, proved by running its C(surefoot doctor), and made
    durable.
  - With V(active), it first proves itself on the device's models beside the app that serves, by C(surefoot model
    verify --golden), without writing and without a network. One that cannot serve them is refused, and nothing changes.
  - What is switched to is an app with its settings, O(id) is both. Other settings of the app that serves are proved, on
    trial, confirmed and returned from as another app is.
  - Then it is switched to by one rename, what it needs outside of O(folder) comes there, and the service is restarted.
    It must answer as that version, serve each model that is served or was proved, and stay the same process for
    O(steady). If it does not, the app that served before is switched back to and must answer, and the task fails with
    the reason.
  - Until then it is on trial. Each of its starts is counted on the disk by the unit, and after a few of them the device
    returns to the app before by itself, also where nobody is connected any more.
  - What the running app and the one to return to do not need is removed after the new one was confirmed.
  - With V(rolled_back), the app before is switched to in the same way, with its settings. Nothing is fetched and
    nothing is copied. If it is too old for C(--golden), its C(surefoot model verify) is its proof, and RV(why) says so;
    any other app that does not know it is refused.
author:
  - The Surefoot authors (@surefoot)
attributes:
  check_mode:
    description: Can run in check mode and return the changed status prediction without changing anything.
    support: full
  diff_mode:
    description: Returns the running app and the one to return to, before and after, and the files of O(outside).
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
    description:
      - The app, as the lookup P(surefoot.edge.app_artifact#lookup) calls it.
      - With O(state=active) followed by C(@) and the first digits of a digest of its settings. The folder of that name
        in O(folder) holds its C(surefoot.toml) already.
      - Required but with O(state=rolled_back).
    type: str
  state:
    description:
      - V(present) is beside the one that runs, V(active) serves.
      - V(rolled_back) returns to the app before. Where an earlier rollback has brought the one that serves, and nothing
        was deployed since, nothing is done. It never goes forward again.
    type: str
    choices: [present, active, rolled_back]
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
  data_dir:
    description: All that the app keeps. It proves itself on what is in it.
    type: path
    default: /data/surefoot
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
  outside:
    description:
      - For O(state=active), the files that the app needs outside of O(folder), such as its unit. They are kept with its
        settings, and are what they were again after a return.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The file.
        type: path
        required: true
      content:
        description: All of it.
        type: str
        required: true
      mode:
        description: Who may read and execute it.
        type: str
        required: true
  instead:
    description: The link that the device makes to an app that it starts instead of one whose start it cannot count.
    type: path
    default: /run/surefoot-instead
  started_with:
    description:
      - What the service has to note of what it was started with. Where it noted something else, it is restarted.
      - Empty, it is not asked for.
    type: str
    default: ""
  timeout:
    description: Seconds that a new app may take to answer, and its C(surefoot doctor) to end.
    type: int
    default: 300
  proof_timeout:
    description: Seconds that a new app may take for the golden cases of all models, and later until it serves them.
    type: int
    default: 600
  most_memory:
    description: Bytes that an app may take while it proves itself beside the one that serves.
    type: int
    default: 536870912
  docker_options:
    description: More options of C(docker run) for that, such as the devices of an accelerator.
    type: list
    elements: str
    default: []
  steady:
    description: Seconds that a new app must serve without a break before it is confirmed.
    type: float
    default: 10.0
"""

EXAMPLES = r"""
- name: Bring an image beside the app that runs
  surefoot.edge.surefoot_app:
    id: 0.1.0-766d4f6d59f1
    state: present
    engine: docker
    artifact: /media/usb/surefoot-0.1.0-rpi.docker.tar
    images: ["sha256:766d4f6d59f159df29bd687b32ff42993aed3a40720714af7f32b66c83ad6315"]

- name: Let it serve with these settings
  surefoot.edge.surefoot_app:
    id: 0.1.0-766d4f6d59f1@0b1f3c5a7e92
    engine: docker
    outside:
      - path: /etc/systemd/system/surefoot.service
        content: "{{ unit }}"
        mode: "0644"

- name: Return to the app before
  surefoot.edge.surefoot_app:
    state: rolled_back
    engine: docker
"""

RETURN = r"""
why:
  description: The reason for what was done, or for doing nothing.
  returned: always
  type: str
  sample: 0.1.0-766d4f6d59f1@0b1f3c5a7e92 serves, 0.2.0-1f0a27c19e9b@0b1f3c5a7e92 is wanted
taken:
  description: Whether the app is there, whole and proved. False where an archive is needed.
  returned: with V(present)
  type: bool
before:
  description: The running app and the one to return to, each with its settings, and all apps that are there.
  returned: always
  type: dict
  sample: {"current": "0.1.0-766d4f6d59f1@0b1f3c5a7e92", "before": null, "there": ["0.1.0-766d4f6d59f1"]}
after:
  description: The same after the task. In check mode, what it would be.
  returned: success
  type: dict
  sample: {"current": "0.2.0-1f0a27c19e9b@0b1f3c5a7e92", "before": "0.1.0-766d4f6d59f1@0b1f3c5a7e92", "there": []}
error:
  description: What failed, what was found, what was expected and what to do.
  returned: failure
  type: dict
"""

import json
import os
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.surefoot.edge.plugins.module_utils.app_engines import Environments, Images, Room
from ansible_collections.surefoot.edge.plugins.module_utils.app_service import Service
from ansible_collections.surefoot.edge.plugins.module_utils.app_store import AppError, Apps, Outside, app_of, text


def view(apps):
    """What a person wants to know of the apps there."""
    folders = (path.parent for path in apps.folder.glob("*/complete"))
    there = sorted(path.name for path in folders if not path.is_symlink() and "@" not in path.name)
    return {"current": apps.current, "before": apps.before, "there": there}


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


def differing(apps, options):
    """The wanted files outside of the folder, and those of them that hold something else."""
    wanted = [Outside(each["path"], each["content"], int(each["mode"], 8)) for each in options["outside"]]
    return wanted, [each for each in wanted if text(apps.at(each.path)) != each.content]


def reasons(apps, service, app, started_with, others):
    """Why something has to be done, none where nothing has: those to start anew for, and others."""
    found = [f"{each.path} is another one than is wanted" for each in others]
    if service.starts_instead():
        found.append(f"the device started {service.starts_instead()} instead")
    if apps.current != app:
        found.append(f"{apps.current or 'nothing'} serves, {app} is wanted")
    if not service.is_enabled():
        found.append("the app does not start at boot")
    noted = service.started_with()
    if not noted:
        found.append("the app does not run")
    elif started_with not in ("", noted):
        found.append("the app was started with other settings")
    elif not service.gateway.version():
        found.append("the app does not answer")
    return found, [f"the trial of {app} was cut off"] if apps.current == app and apps.on_trial else []


def active(module, apps, engine):
    """Let the app serve, or the one before it again."""
    return serve(module, apps, engine, module.params["id"])


def rolled_back(module, apps, engine):
    """Return to the app before. One that an earlier rollback has brought stays: asked twice is not asked for two."""
    current, before = apps.current, apps.before
    if apps.returned:
        done = serve(module, apps, engine, current, left=before)  # its trial may have been cut off
        return done if done["changed"] else dict(done, why=f"{current} serves, returned to from {before} earlier")
    if not apps.may_return_to(before):
        raise AppError(
            "there is no app to return to",
            found=f"{before} was not confirmed here, or failed since"
            if before
            else f"nothing before {current or 'it'}",
            expected="an app that was confirmed before the one that serves",
            hint="nothing was changed; deploy the app that you want",
        )
    return serve(module, apps, engine, before, left=current)


def serve(module, apps, engine, app, left=""):
    """Prove an app, switch to it, and see it through its trial. ``left``: the app that a rollback leaves for it."""
    options = module.params
    service = Service(options["service"], Path(options["run_dir"]), options["timeout"], Path(options["instead"]))
    outside, others = differing(apps, options)
    anew, other = reasons(apps, service, app, options["started_with"], others)
    done = {"changed": bool(anew or other), "why": "; ".join(anew + other) or f"{app} serves"}
    switches = apps.current != app
    models = set(service.gateway.ready_models())
    if outside and done["changed"] and not module.check_mode:
        apps.prepare(app, outside)
    if switches and apps.whole(app) and (apps.folder / app / "surefoot.toml").is_file():
        room = Room(
            Path(options["data_dir"]), options["most_memory"], options["docker_options"], options["proof_timeout"]
        )
        proof = engine.golden(app, room, bool(left) and apps.may_return_to(app))
        models |= set(proof.models)
        done["why"] += f"; {proof.short_of}" if proof.short_of else ""
    if module.check_mode or not done["changed"]:
        return done
    good = apps.good if apps.whole(apps.good) else None
    if switches:
        apps.begin_trial(app, left)
        apps.switch(app)
    apps.place(app)
    apps.link(Path(options["config"]), apps.folder / "current" / "surefoot.toml")
    service.enable()
    version = version_of(app)
    wrong = service.restart(version) if anew else ""
    wrong = wrong or service.stays(apps, version, sorted(models), options["steady"], options["proof_timeout"])
    if wrong:
        go_back(apps, service, app, good, wrong)
    if apps.on_trial:
        apps.confirm(app)
    for spare in apps.spare():
        engine.remove(spare)
    return done


def go_back(apps, service, app, good, wrong):
    """Return to what answered before. Raises AppError, always."""
    what = f"app {app} does not serve"
    expected = f"version {version_of(app)}, which serves and stays"
    if good is None or good == app:
        hint = "there is no other app to return to: see the device's journal, mend it and deploy again"
        raise AppError(what, found=wrong, expected=expected, hint=hint)
    returned = apps.current == good  # the device itself was quicker
    apps.switch(good)
    apps.place(good)
    apps.spoil(app)
    again = service.answers(version_of(good)) if returned else service.restart(version_of(good))
    if again:
        hint = "nothing answers: see the device's journal"
        raise AppError(f"{what}, and {good} does not answer again", found=f"{wrong}; then {again}", hint=hint)
    raise AppError(what, found=wrong, expected=expected, hint=f"returned to {good}, which answers")


def main():
    """One task: gather what happened, and leave by the last line."""
    module = AnsibleModule(
        argument_spec={
            "id": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "active", "rolled_back"], "default": "active"},
            "engine": {"type": "str", "choices": ["docker", "systemd"], "required": True},
            "folder": {"type": "path", "default": "/data/surefoot/apps"},
            "artifact": {"type": "path"},
            "transferred": {"type": "path"},
            "images": {"type": "list", "elements": "str", "default": []},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "user_id": {"type": "int", "default": 10001},
            "data_dir": {"type": "path", "default": "/data/surefoot"},
            "config": {"type": "path", "default": "/data/surefoot/surefoot.toml"},
            "run_dir": {"type": "path", "default": "/run/surefoot"},
            "service": {"type": "str", "default": "surefoot.service"},
            "outside": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                    "mode": {"type": "str", "required": True},
                },
            },
            "instead": {"type": "path", "default": "/run/surefoot-instead"},
            "started_with": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 300},
            "proof_timeout": {"type": "int", "default": 600},
            "most_memory": {"type": "int", "default": 536870912},
            "docker_options": {"type": "list", "elements": "str", "default": []},
            "steady": {"type": "float", "default": 10.0},
        },
        required_if=[("state", "present", ["id"]), ("state", "active", ["id"])],
        supports_check_mode=True,
    )
    options = module.params
    apps = Apps(Path(options["folder"]))
    if options["engine"] == "docker":
        engine = Images(apps, options["images"], options["timeout"])
    else:
        engine = Environments(apps, Path(options["python"]), options["user_id"], options["timeout"])
    result = {"changed": False, "why": "", "before": view(apps)}
    files = [
        {"before_header": f"{each.path} (before)", "after_header": f"{each.path} (after)",
         "before": text(apps.at(each.path)), "after": each.content}
        for each in differing(apps, options)[1]
    ]  # fmt: skip
    do = {"present": present, "active": active, "rolled_back": rolled_back}[options["state"]]
    try:
        if apps.folder.is_dir():
            with apps.alone():
                result.update(do(module, apps, engine))
        else:
            result.update(do(module, apps, engine))
    except AppError as failure:
        result.update(error=failure.error, msg=str(failure))
    except OSError as failure:
        error = AppError("the device's disk does not take it", found=str(failure), hint="see its journal")
        result.update(error=error.error, msg=str(error))
    result["after"] = view(apps)
    if module.check_mode and result["changed"]:
        wanted = {"there": sorted({*result["after"]["there"], *map(app_of, filter(None, [options["id"]]))})}
        app = apps.before if options["state"] == "rolled_back" and not apps.returned else options["id"]
        if options["state"] != "present" and app and apps.current != app:
            wanted.update(current=app, before=apps.current)
        result["after"].update(wanted)
    headers = {"before_header": "apps (before)", "after_header": "apps (after)"}
    shown = {when: json.dumps(result[when], indent=2) + "\n" for when in ("before", "after")}
    result["diff"] = [dict(headers, **shown), *files]
    (module.fail_json if "error" in result else module.exit_json)(**result)


if __name__ == "__main__":
    os.umask(0o022)
    main()
