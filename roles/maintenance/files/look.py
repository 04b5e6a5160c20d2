"""What maintenance asks a device: which security updates it lacks, whether a reboot is due, what its app serves.

Prints one JSON object and changes nothing. Runs by the distribution's own Python, which has python3-apt.
Arguments: the app's run directory, then endings of the names of suites that bring security updates.
"""

import http.client
import json
import os
import re
import sys
from pathlib import Path

ANSWER_TIMEOUT_S = 10
MOST_ANSWER_BYTES = 1 << 20
MOST_MAPS_BYTES = 4 << 20
# What is added to the room that apt says it needs: its lists, an initramfs, a log.
MARGIN_BYTES = 64 << 20


def flavour(release):
    """Which of several kernels side by side this one is: rpi-v8 of 6.6.51+rpt-rpi-v8, amd64 of 6.1.0-28-amd64."""
    found = re.search(r"-([a-z].*)$", release)
    return found.group(1) if found else ""


def newer_kernel(running, installed):
    """The newest installed kernel of the running one's flavour, if it is another one and newer; else nothing."""

    def numbers(release):
        return [int(each) for each in re.findall(r"\d+", release[: len(release) - len(flavour(release))])]

    same = [each for each in installed if flavour(each) == flavour(running)]
    newest = max(same, key=numbers, default="")
    return newest if newest and numbers(newest) > numbers(running) else ""


def replaced(maps):
    """Whether a process, by its /proc/PID/maps, runs code of the system that is no longer on the disk."""
    return re.search(r"^\S+ ..x. .* /(?:usr|lib|bin|sbin)\S* \(deleted\)$", maps, re.MULTILINE) is not None


def outdated_processes():
    """Names of processes of this system, not of its containers, that run code which was replaced since."""
    found = set()
    here = Path("/").stat()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            root = (process / "root").stat()
            if (root.st_dev, root.st_ino) != (here.st_dev, here.st_ino):
                continue
            with (process / "maps").open(encoding="utf-8", errors="replace") as stream:
                if replaced(stream.read(MOST_MAPS_BYTES)):
                    found.add((process / "comm").read_text(errors="replace").strip())
        except OSError:  # it ended meanwhile
            continue
    return sorted(found)


def why_reboot():
    """Why a reboot is due: a sentence each, none where it is not."""
    reasons = []
    asked = Path("/run/reboot-required.pkgs")
    if Path("/run/reboot-required").exists():
        names = sorted(set(asked.read_text(errors="replace").split())) if asked.is_file() else []
        reasons.append("the distribution asks for it" + (": " + ", ".join(names[:8]) if names else ""))
    installed = [path.name.replace("vmlinuz-", "") for path in Path("/boot").glob("vmlinuz-*")]
    kernel = newer_kernel(os.uname().release, installed)
    if kernel:
        reasons.append("kernel " + kernel + " is installed, " + os.uname().release + " runs")
    outdated = outdated_processes()
    if outdated:
        reasons.append("what was replaced still runs: " + ", ".join(outdated[:8]))
    return reasons


def security_updates(endings):
    """What to install, as NAME=VERSION; what somebody put on hold; and bytes wanted and free, for each place."""
    import apt
    import apt_pkg

    cache = apt.Cache()
    updates, held = [], []
    for package in cache:
        if not package.is_installed:
            continue
        better = [
            version
            for version in package.versions
            if version > package.installed
            and any(each.trusted and each.archive.endswith(tuple(endings)) for each in version.origins)
        ]
        if not better:
            continue
        newest = max(better)
        if package._pkg.selected_state == apt_pkg.SELSTATE_HOLD:  # it has no public name
            held.append(package.name)
            continue
        updates.append(package.name + "=" + newest.version)
        package.candidate = newest
        package.mark_install(auto_fix=False, from_user=False)
    if not updates:
        return [], sorted(held), []
    archives = apt_pkg.config.find_dir("Dir::Cache::Archives")
    room = _room({"/usr": max(0, cache.required_space), archives: cache.required_download})
    return sorted(updates), sorted(held), room


def _room(wanted):
    """Bytes wanted and free for each file system, by a path on it."""
    found = {}
    for path, size in wanted.items():
        nearest = Path(path)
        while not nearest.exists():
            nearest = nearest.parent
        state = os.statvfs(str(nearest))
        entry = found.setdefault(
            nearest.stat().st_dev, {"path": path, "wanted": MARGIN_BYTES, "free": state.f_bavail * state.f_frsize}
        )
        entry["wanted"] += size
    return [{**entry, "short": entry["free"] < entry["wanted"]} for entry in found.values()]


def serving(run_dir):
    """What the app says that it serves, ``None`` where none is installed, and why that cannot be told."""
    try:
        url = json.loads((run_dir / "endpoint.json").read_text())["url"]
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, KeyError) as error:
        return None, "endpoint.json cannot be read: " + repr(error)
    try:
        server = http.client.HTTPConnection(url.split("://", 1)[1], timeout=ANSWER_TIMEOUT_S)
        server.request("GET", "/status.json")
        answer = server.getresponse()
        said = json.loads(answer.read(MOST_ANSWER_BYTES).decode())
        models = {each["name"]: each["version"] for each in said["models"]}
        ready = said["ready"] or not models
        return {"app": said["version"], "models": models}, "" if ready else "not ready: " + said["problem"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        return None, "the app does not answer at " + url + ": " + repr(error)


def main(run_dir, endings):
    """Ask, and print."""
    serves, problem = serving(Path(run_dir))
    try:
        updates, held, room = security_updates(endings)
        unknown = ""
    except Exception as error:  # whatever keeps apt from answering is the answer
        updates, held, room, unknown = [], [], [], repr(error)
    print(
        json.dumps(
            {
                "user": os.getuid(),
                "serves": serves,
                "problem": problem,
                "updates": updates,
                "held": held,
                "room": room,
                "unknown": unknown,
                "reboot": why_reboot(),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
