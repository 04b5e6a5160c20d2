"""Switch to the app before as a deploy does, then end the unit as often as it starts. Prints what became of it."""

import http.client
import json
import re
import socket
import subprocess
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path

MOST_S = 240.0


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def process():
    return said("systemctl", "show", "--property=MainPID", "--value", "surefoot.service")


def ready():
    """Whether the gateway serves the model."""
    try:
        with socket.socket(socket.AF_UNIX) as gateway:
            gateway.settimeout(5)
            gateway.connect("/run/surefoot/http.sock")
            gateway.sendall(b"GET /v2/models/fashion-mnist/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            reply = http.client.HTTPResponse(gateway)
            reply.begin()
            return reply.status == 200
    except (OSError, http.client.HTTPException):
        return False


def until(condition):
    ends = time.monotonic() + MOST_S
    while not condition() and time.monotonic() < ends:
        time.sleep(0.2)
    return condition()


def running():
    """The app that really runs, by its processes."""
    venv = re.search(r"/apps/([^/]+)/venv/", said("pgrep", "--full", "--list-full", "[s]urefoot.* serve"))
    if venv:
        return venv[1]
    image = said("docker", "inspect", "--format", "{{.Image}}", "surefoot")
    found = [path.parent.name for path in apps.folder.glob("*/image") if path.read_text().strip() == image]
    return next((name for name in found if "@" in name), "none")


apps = SourceFileLoader("trial", "/usr/local/sbin/surefoot-trial").load_module().Apps(Path("/data/surefoot/apps"))
begun = f"@{int(time.time())}"
served, tried = apps.current, apps.before
apps.begin_trial(tried, left=served)
apps.switch(tried)
subprocess.run(["systemctl", "restart", "surefoot.service"], check=True)
for _ in range(6):
    if not until(ready) or apps.current == served:
        break
    old = process()
    subprocess.run(["systemctl", "kill", "--signal=KILL", "surefoot.service"], check=True)
    until(lambda old=old: process() not in ("0", old))
journal = said("journalctl", "--quiet", "--output=cat", f"--since={begun}", "--unit=surefoot.service")
print(json.dumps({
    "counted": re.findall("start . of .", journal), "served": served, "tried": tried, "serves": apps.current,
    "running": running(), "ready": until(ready), "journal": [line for line in journal.splitlines() if tried in line],
}))  # fmt: skip
