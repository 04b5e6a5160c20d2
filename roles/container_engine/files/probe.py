"""What container_engine asks a device before it changes anything: one JSON object on stdout. Writes nothing.

Arguments: the data root of the engine, the kit's folder or nothing, and the table of releases as JSON, which says by
distribution and version which package brings each command that must be there.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

TIMEOUT_S = 60
FOLDERS = ("/etc/docker", "/etc/systemd/system/containerd.service.d", "/etc/systemd/system/docker.service.d")
OURS = Path("/etc/systemd/system/docker.service.d/surefoot.conf")
SETTINGS = Path("/etc/docker/daemon.json")
# What the operator had before, kept by the role and put back by `remove`.
KEPT = Path("/etc/docker/daemon.json.before-surefoot")
BROKEN = ("half-installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending")
# sudo gives an ordinary user's PATH to some.
os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"


def output(*command):
    """What a command printed, or nothing where it failed."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def content(path):
    """A small text file, or nothing."""
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as stream:
            return stream.read(65536)
    except OSError:
        return ""


def release():
    """The distribution's id and version: Raspberry Pi OS calls itself debian."""
    pairs = (line.split("=", 1) for line in content("/etc/os-release").splitlines() if "=" in line)
    fields = {key: value.strip('"') for key, value in pairs}
    return fields.get("ID", "unknown"), fields.get("VERSION_ID", "unknown")


def missing(wanted):
    """Packages that must be installed. A command that another package brought is as good; half a package is not."""
    found = []
    for command, package in wanted:
        state = output("dpkg-query", "--show", "--showformat=${db:Status-Status}", package)
        if state in BROKEN or (state != "installed" and shutil.which(command) is None):
            found.append(package)
    return sorted(set(found))


def place(path):
    """The file system that a path lies on, or would lie on."""
    nearest = Path(path)
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    free = os.statvfs(str(nearest))
    return {
        "path": path,
        "file_system": output("findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(nearest)) or "unknown",
        "free_bytes": free.f_bavail * free.f_frsize,
    }


def limits_memory():
    """Whether the kernel has a memory controller: Raspberry Pi OS boots without one."""
    if "memory" in content("/sys/fs/cgroup/cgroup.controllers").split():
        return True
    lines = (line.split() for line in content("/proc/cgroups").splitlines())
    return any(fields[:1] == ["memory"] and fields[3:4] == ["1"] for fields in lines)


def engine():
    """Whether the engine runs, where its data is, and which containers it has."""
    found = {"active": output("systemctl", "is-active", "docker.service") == "active"}
    asked = ("docker", "info", "--format", "{{.DockerRootDir}}\n{{.Containers}}")
    said = (output(*asked) if found["active"] else "").splitlines()
    found["data_root"], found["containers"] = (said[0], int(said[1])) if len(said) == 2 else ("", 0)
    found["running"] = output("docker", "ps", "--quiet", "--no-trunc").split() if found["containers"] else []
    return found


def main(data_root, kit, releases):
    """Print the answers."""
    distribution, version = release()
    packages = list(json.loads(releases).get(distribution, {}).get(version, {}).items())
    # Docker starts no container where the kernel enforces AppArmor and nothing can load its profile.
    if content("/sys/module/apparmor/parameters/enabled").startswith("Y"):
        packages.append(("apparmor_parser", "apparmor"))
    answers = {
        "distribution": distribution,
        "version": version,
        "service_manager": content("/proc/1/comm").strip(),
        "user": os.geteuid(),
        "missing": missing(packages),
        "kit": not kit or (Path(kit) / "Packages").is_file(),
        "data": place(data_root),
        "programs": place("/usr"),
        "limits_memory": limits_memory(),
        "engine": engine(),
        "missing_folders": [folder for folder in FOLDERS if not Path(folder).is_dir()],
        "ours": OURS.exists(),
        "others_settings": SETTINGS.exists() and not OURS.exists(),
        "kept_settings": KEPT.exists(),
    }
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
