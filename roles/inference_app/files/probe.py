"""What inference_app asks a device before it changes anything: one JSON object on stdout. Writes nothing.

Runs by whatever interpreter inference_app_python names, an old one too, so that its answer can say so.
Arguments: the configuration, the note of what the app was started with, then the directories to look at.
"""

import hashlib
import http.client
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

STATUS_TIMEOUT_S = 60
ANSWER_TIMEOUT_S = 10
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
        with path.open(encoding="utf-8") as stream:
            return stream.read(65536).strip()
    except (OSError, UnicodeDecodeError):
        return ""


def installed():
    """The version of the app that this interpreter holds, and why there is none."""
    try:
        import surefoot
    except Exception as error:  # an app that cannot be imported is an answer, whatever it raises
        return None, f"not importable: {error!r}"
    return surefoot.__version__, ""


def running(config):
    """What the app that runs says of itself, ``None`` where none runs, and why that cannot be told."""
    command = [sys.executable, "-m", "surefoot", "--config", str(config), "status", "--json"]
    asked = subprocess.run(command, capture_output=True, timeout=STATUS_TIMEOUT_S, check=False)
    if asked.returncode == 0:
        return json.loads(asked.stdout.decode()), ""
    if asked.returncode in NOT_RUNNING:
        return None, ""
    return None, (asked.stdout + asked.stderr).decode(errors="replace")[-500:]


def live(url):
    """Whether the app answers its clients, as one of them asks it."""
    try:
        server = http.client.HTTPConnection(url.split("://", 1)[1], timeout=ANSWER_TIMEOUT_S)
        server.request("GET", "/v2/health/live")
        return server.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


config, note = Path(sys.argv[1]), Path(sys.argv[2])
app, problem = installed()
seen, unclear = running(config) if app else (None, "")
print(
    json.dumps(
        {
            "python": platform.python_version(),
            "app": app,
            "problem": problem or unclear,
            "running": {"version": seen["version"], "url": seen["url"], "live": live(seen["url"])} if seen else None,
            "configuration": hashlib.sha256(content(config).encode()).hexdigest(),
            "started_with": content(note),
            "directories": [look_at(Path(path)) for path in sys.argv[3:]],
        }
    )
)
