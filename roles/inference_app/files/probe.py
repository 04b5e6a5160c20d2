"""What inference_app asks a device before it changes anything, and again after: one JSON object on stdout.

Writes nothing. Runs by whatever interpreter inference_app_python names, an old one too, so that its answer can say so;
for engines that bring the app, by the system's. Its argument is a JSON object, see vars/main.yml. Where the archive of
the app lies on the device already, plugins/module_utils/app_artifact.py stands before this.
"""

import hashlib
import http.client
import importlib.util
import json
import os
import platform
import pwd
import socket
import subprocess
import sys
from pathlib import Path

STATUS_TIMEOUT_S = 60
ANSWER_TIMEOUT_S = 10
MOST_BYTES = 1 << 20
ENGINE = "/run/docker.sock"
# `surefoot status`: 2, no configuration yet, or one that is not valid; 4, nothing runs. The role sees to both.
NOT_RUNNING = (2, 4)


def look_at(path):
    """Whether a directory is there, or could be made and written, and the bytes free on its file system."""
    nearest = path
    while not os.path.lexists(str(nearest)) and nearest != nearest.parent:
        nearest = nearest.parent
    problem = ""
    if not nearest.is_dir():
        problem = f"{nearest} is not a directory"
    elif not os.access(str(nearest), os.W_OK | os.X_OK):
        problem = f"{nearest} does not take files of this user"
    free = os.statvfs(str(nearest))
    return {
        "path": str(path),
        "exists": path.is_dir(),
        "problem": problem,
        "free_bytes": free.f_bavail * free.f_frsize,
    }


def content(path):
    """A small text file without the white space around it, or nothing."""
    try:
        with Path(path).open(encoding="utf-8") as stream:
            return stream.read(MOST_BYTES).strip()
    except (OSError, UnicodeDecodeError):
        return ""


def digest(path):
    """Of a small text file without the white space around it."""
    return hashlib.sha256(content(path).encode()).hexdigest()


def said(*command):
    """What a command prints, whatever becomes of it; nothing where it is not there."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=STATUS_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip()


class UnixHTTP(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        http.client.HTTPConnection.__init__(self, "localhost", timeout=ANSWER_TIMEOUT_S)
        self.path = path

    def connect(self):
        """In place of TCP."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def answer(server, address):
    """Status and JSON of an answer; status 0 where there is none."""
    try:
        server.request("GET", address)
        reply = server.getresponse()
        body = reply.read(MOST_BYTES)
        server.close()
        return reply.status, json.loads(body.decode()) if body else None
    except (OSError, ValueError, http.client.HTTPException):
        return 0, None


# -- an app in an environment that was there before the role ---------------------------------------------------------


def installed():
    """The version of the app that this interpreter holds, and why there is none."""
    try:
        import surefoot
    except Exception as error:  # an app that cannot be imported is an answer, whatever it raises
        return None, f"not importable: {error!r}"
    return surefoot.__version__, ""


def asked_itself(config):
    """What the app that runs says of itself, ``None`` where none runs, and why that cannot be told."""
    command = [sys.executable, "-m", "surefoot", "--config", config, "status", "--json"]
    done = subprocess.run(command, capture_output=True, timeout=STATUS_TIMEOUT_S, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.decode()), ""
    if done.returncode in NOT_RUNNING:
        return None, ""
    return None, (done.stdout + done.stderr).decode(errors="replace")[-500:]


def process(asked):
    """The engine `process`."""
    app, problem = installed()
    seen, unclear = asked_itself(asked["config"]) if app else (None, "")
    running = None
    if seen:
        server = http.client.HTTPConnection(seen["url"].split("://", 1)[1], timeout=ANSWER_TIMEOUT_S)
        status, _ = answer(server, "/v2/health/live")
        running = {"version": seen["version"], "url": seen["url"], "live": status == 200}
    return {"app": app, "problem": problem or unclear, "running": running}


# -- an app that systemd or launchd runs -----------------------------------------------------------------------------


def apps(folder, mark, configuration):
    """What is known of each app there is."""
    folder = Path(folder)
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            found[path.name] = {
                "complete": (path / mark).exists(),
                "on_trial": (path / "tries").exists() or not (path / "confirmed").exists(),
                "configured": digest(path / "surefoot.toml") == configuration,
                "image": content(path / "image"),
            }
    return found


def linked(link):
    """The name of what a link names, or nothing."""
    try:
        return Path(link).readlink().name
    except OSError:
        return None


def gateway(path):
    """Version and life of the app whose gateway answers at this socket, or nothing."""
    status, about = answer(UnixHTTP(path), "/v2")
    return {"version": about["version"], "live": True} if status == 200 else None


def docker(images):
    """The engine and what it holds, or nothing where none answers."""
    status, about = answer(UnixHTTP(ENGINE), "/info")
    if status != 200:
        return None
    seen = [answer(UnixHTTP(ENGINE), f"/images/{name}/json")[1] for name in images]
    _, container = answer(UnixHTTP(ENGINE), "/containers/surefoot/json")
    running = (container or {}).get("State", {}).get("Running", False)
    return {
        "version": about["ServerVersion"],
        "memory_limit": about["MemoryLimit"],
        "free_bytes": look_at(Path(about["DockerRootDir"]))["free_bytes"],
        "image": next((each["Id"] for each in seen if each and "Id" in each), None),
        "container": {"image": container["Image"], "pid": container["State"]["Pid"]} if running else None,
    }


def most_memory_bytes(pid):
    """The limit that the kernel holds a process and its like to; nothing where it holds none. Both kinds of cgroups."""
    for line in content(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            name = f"/sys/fs/cgroup{path}/memory.max"
        elif "memory" in controllers.split(","):
            name = f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"
        else:
            continue
        limit = content(name)
        if limit.isdigit() and int(limit) < 1 << 60:  # cgroups v1 say "none" by a very large number
            return int(limit)
    return None


def sealed():
    """Whether what is written to the root is gone at the next boot. A container's root is an overlay too, and stays."""
    root = said("findmnt", "--noheadings", "--output", "FSTYPE,OPTIONS", "/").split()
    overlay = root[:1] == ["overlay"] or "ro" in ",".join(root[1:]).split(",")
    return overlay and said("systemd-detect-virt", "--container") == "none"


def user_of(name):
    """The number of a user, or nothing."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def managed(asked):
    """The engines `docker` and `systemd`."""
    known = apps(asked["apps"], "complete", asked["configuration"])
    unit = dict(
        line.split("=", 1)
        for line in said(
            "systemctl", "show", "surefoot.service", "--property=ActiveState,MainPID,UnitFileState"
        ).splitlines()
    )
    running = gateway(f"{asked['run_dir']}/http.sock")
    engine = docker(asked["images"]) if asked["engine"] == "docker" else None
    pid = int(unit.get("MainPID", 0))
    # Names of apps with their settings, of which several may have one image: the one that was started comes first.
    started = [linked(asked["instead"]) or linked(f"{asked['apps']}/current"), *(name for name in known if "@" in name)]
    if asked["engine"] == "docker":
        container = (engine or {}).get("container") or {}
        pid = container.get("pid", 0)
        image = container.get("image")
        app = next((name for name in started if known.get(name, {}).get("image") == image), None)
    else:
        app = next((name for name in known if f"/{name}/venv/" in content(f"/proc/{pid}/cmdline")), None)
    if running:
        running.update(app=app, url=json.loads(content(f"{asked['run_dir']}/endpoint.json") or "{}").get("url"))
    return {
        "apps": known,
        "current": linked(f"{asked['apps']}/current"),
        "running": running,
        "enabled": unit.get("UnitFileState") == "enabled",
        "active": unit.get("ActiveState") == "active",
        "most_memory_bytes": most_memory_bytes(pid) if running else None,
        "docker": engine,
        "venv": importlib.util.find_spec("ensurepip") is not None,  # Debian has it in a package of its own
        "sealed": sealed(),
        "user": user_of(asked["user"]),
        # Who logged in, and may be given a folder to put files into.
        "login": int(os.environ.get("SUDO_UID") or os.getuid()),
    }


def launchd(asked):
    """The engine `launchd`. What its installer leaves: see images/macos/inside."""
    root = Path(asked["launchd_root"])
    # Below a home, the run directory's path may be too long for a socket; the app says where it put it.
    endpoint = json.loads(content(f"{asked['run_dir']}/endpoint.json") or "{}")
    running = gateway(endpoint.get("http_socket") or f"{asked['run_dir']}/http.sock")
    if running:
        pid_and_app = content(f"{asked['run_dir']}/started").split()
        running.update(app=pid_and_app[-1] if pid_and_app else None, url=None)
    return {
        "apps": apps(root / "versions", "confirmed", asked["configuration"]),
        "current": linked(root / "current"),
        "running": running,
        "macos": said("sw_vers", "-productVersion"),
        "login": os.getuid(),
    }


def carried(path):
    """What the archive of the app is that lies on the device, or what is wrong with it."""
    before = globals()  # names of app_artifact.py, see above
    try:
        return before["describe"](path)
    except before["ArtifactError"] as error:
        return {"problem": str(error)}


def main(asked):
    """Print what was found."""
    about = None
    if asked["artifact"]:
        about = carried(asked["artifact"])
        asked["images"] = about.get("images", [])
    same = digest(asked["config"]) == asked["configuration"]
    found = {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "artifact": about,
        "configuration": "none" if not Path(asked["config"]).exists() else "wanted" if same else "other",
        "settings": asked["settings"],
        "same_settings": content(asked["note"]).partition(" ")[0] == asked["settings"],
        "directories": [look_at(Path(path)) for path in asked["directories"]],
        "other_files": [path for path, wanted in asked["files"].items() if digest(path) != wanted],
    }
    engine = {"process": process, "launchd": launchd}.get(asked["engine"], managed)
    print(json.dumps(dict(found, **engine(asked))))


main(json.loads(sys.argv[1]))
