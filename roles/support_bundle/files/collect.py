"""Gathers what helps to find a fault on a device, without what must not leave it, into one small archive.

Runs on the device by its own Python (3.9 or newer), with one JSON object as its argument (see ``main``); prints one.
Every text goes through ``redact`` before it is cut to its bound, and nothing is written but the archive.
"""

import base64
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

HIDDEN = "[redacted]"
COMMAND_TIMEOUT_S = 20
ALL_TIMEOUT_S = 180
MOST_MODELS = 16
MOST_LOGS = 16
MOST_SECRET_FILES = 256
MOST_SECRET_BYTES = 64 * 1024
# Shorter ones are found in too many innocent places.
LEAST_SECRET = 8

# What the name of a secret ends in, and may go on with: bounded, so that a long word costs no more than a short one.
_NAME = (
    r"(?:pass(?:word|wd|phrase)|pwd|secret|token|psk|wep[_-]?(?:tx)?[_-]?key|credential|authorization|cookie|"
    r"(?:api|private|access|account|shared|signing|encryption|auth)[_-]?key|session[_-]?id|(?<![a-z])sig(?:nature)?(?![a-z]))"
    r"[\w.-]{0,40}"
)
_WHOLE_NAME = rf"[\w.-]{{0,40}}?{_NAME}"
# Where a value lies, or a flag, is no secret and says much about a fault.
_PLAIN_KEY = re.compile(r"(?:file|path|folder|dir)$", re.IGNORECASE)
_PLAIN_VALUE = re.compile(r"[\"']?(?:true|false|null|none|\d{1,3})?[\"']?$", re.IGNORECASE)
_MARK = r"-----{} [A-Z0-9 ]{{0,40}}PRIVATE KEY(?: BLOCK)?-----"
_PEM = re.compile(
    rf"{_MARK.format('BEGIN')}(?:(?:(?!-----BEGIN).){{0,20000}}?{_MARK.format('END')}"
    r"|(?:\s*^[\w+/=:, -]{1,100}$){0,200})",  # one whose end is missing
    re.DOTALL | re.MULTILINE,
)
_PEM_END = re.compile(_MARK.format("END"))
_BASE64_LINE = re.compile(r"\s*[\w+/=]{16,}\s*$")
_VAULT = re.compile(r"\$ANSIBLE_VAULT;[^\n]*(?:\n[ \t]*[0-9a-f]{16,}[ \t]*$)*", re.MULTILINE)
# Secrets by their form, wherever they stand.
_FORM = re.compile(
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # a JSON web token
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|sk-|AGE-SECRET-KEY-1|hf_|npm_|pypi-)[\w-]{12,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\$(?:1|2[abxy]|5|6|7|y|gy|argon2\w*|pbkdf2[\w-]*)\$[\w./$=,+-]{8,}"  # a hashed password
)
_USERINFO = re.compile(
    r"(\b[a-z][a-z0-9+.-]{0,20}://)(?:[^\s\"'/@:]{0,256}:[^\s\"'@]{0,256}|[^\s\"'/@]{1,256})@", re.IGNORECASE
)
_BEARER = re.compile(r"(\b(?:bearer|authorization\\*[\"']?\s*[:=]\s*\\*[\"']?\w+)\s+)[\w.~+/=-]+", re.IGNORECASE)
# key: | and the lines that are indented below it.
_BLOCK = re.compile(
    rf"(^(?P<indent>[ \t]*)(?:- )?[\"']?{_WHOLE_NAME}[\"']?[ \t]*:[ \t]*[|>][+-]?[ \t]*\n)"
    r"(?:(?P=indent)[ \t]+\S[^\n]*(?:\n|\Z)|[ \t]*\n)+",
    re.IGNORECASE | re.MULTILINE,
)
# A line of its own: all that follows the key is its value, blanks included.
_LINE = re.compile(
    rf"(^[ \t#;-]*(?:export[ \t]+)?(?P<key>{_WHOLE_NAME})[ \t]*[:=][ \t]*)(?P<value>[^\s\"'{{\[|>][^\n]*)$",
    re.IGNORECASE | re.MULTILINE,
)
_VALUE = (
    r"(?P<value>[bru]?(?:(?P<open>\\+[\"']).{0,4096}?(?<!\\)(?P=open)|\"(?:\\.|[^\"\\])*\"?|'(?:\\.|[^'\\])*'?)"
    r"|[^\s,;&|)}\]\"']+)"
)
# Anywhere: an assignment, a member of JSON, also of JSON within JSON, a parameter of a URL.
_PAIR = re.compile(rf"((?P<key>{_NAME})\\*[\"']?\s*[:=]\s*)(?:{_VALUE})", re.IGNORECASE)
# An option of a command, its value after a blank.
_OPTION = re.compile(rf"((?<!\S)--?(?P<key>{_WHOLE_NAME})[ \t]+)(?!-){_VALUE}", re.IGNORECASE)


def redact(text, secrets=()):
    """A text without what must not leave the device: tokens, keys, passwords, Wi-Fi secrets, credentials in URLs.

    Args:
        text: of a log, a configuration, JSON, a command's output.
        secrets: contents of the device's own secret files, which are taken out wherever and however they are written.

    Returns:
        The text with ``[redacted]`` in their place. Doing it twice changes nothing more.
    """
    for secret in sorted(_written(secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _PEM.sub(HIDDEN, text)
    text = _without_ends(text)
    text = _VAULT.sub(HIDDEN, text)
    text = _FORM.sub(HIDDEN, text)
    text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    text = _BLOCK.sub(rf"\1\g<indent>  {HIDDEN}\n", text)
    for pattern in (_LINE, _OPTION, _PAIR):
        text = pattern.sub(_hide, text)
    return text


def _hide(match):
    """The key with a hidden value, in the value's own quotes: JSON stays JSON."""
    value = match["value"]
    if _PLAIN_KEY.search(match["key"]) or _PLAIN_VALUE.match(value) or value.startswith(HIDDEN[:-1]):
        return match[0]
    opening = re.match(r"[bru]?\\*[\"']", value)
    if not opening:
        return match[1] + HIDDEN
    return match[1] + opening[0] + HIDDEN + opening[0].lstrip("bru")


def _without_ends(text):
    """Without the end of a private key whose beginning was cut away: what looks like its lines goes with it."""
    if not _PEM_END.search(text):
        return text
    kept = []
    for line in text.splitlines(keepends=True):
        if _PEM_END.search(line):
            while kept and _BASE64_LINE.match(kept[-1]):
                kept.pop()
            line = HIDDEN + "\n"
        kept.append(line)
    return "".join(kept)


def _written(secrets):
    """Every form in which a secret is likely to be written."""
    forms = set()
    for secret in secrets:
        for part in {secret.strip(), *(line.strip() for line in secret.splitlines())}:
            if len(part) >= LEAST_SECRET and not part.startswith("-----"):
                forms |= {
                    part,
                    json.dumps(part)[1:-1],
                    json.dumps(part, ensure_ascii=False)[1:-1],
                    urllib.parse.quote(part, safe=""),
                    base64.b64encode(part.encode()).decode(),
                }
    return forms


def cut(text, most_bytes):
    """The newest whole lines of a text, within a bound, and whether something was cut off."""
    data = text.encode(errors="replace")
    if len(data) <= most_bytes:
        return data, False
    kept = data[len(data) - most_bytes :]
    return kept[kept.find(b"\n") + 1 :], True


def read_secrets(folder):
    """The contents of the device's secret files, to be found in what is gathered. They go nowhere else."""
    found = []
    for path in sorted(Path(folder).glob("*"))[:MOST_SECRET_FILES]:
        if path.is_file():
            with path.open("rb") as stream:
                found.append(stream.read(MOST_SECRET_BYTES).decode(errors="replace"))
    return found


class Gathering:
    """The archive in the making, within its bounds."""

    def __init__(self, most_file_bytes, most_bytes, secrets):
        self.most_file_bytes = most_file_bytes
        self.left_bytes = most_bytes
        self.secrets = secrets
        self.deadline = time.monotonic() + ALL_TIMEOUT_S
        self.files = {}
        self.notes = {}

    def add(self, name, text, note=""):
        """Keep a text under a name, redacted and cut."""
        clean = redact(text, self.secrets)
        data, was_cut = cut(clean, max(0, min(self.most_file_bytes, self.left_bytes)))
        self.left_bytes -= len(data)
        self.files[name] = data
        self.notes[name] = {"bytes": len(data), "cut": was_cut, "redacted": clean.count(HIDDEN), "note": note}

    def file(self, name, path):
        """Keep the end of a file."""
        try:
            with Path(path).open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - 2 * self.most_file_bytes))
                self.add(name, stream.read(2 * self.most_file_bytes).decode(errors="replace"))
        except OSError as error:
            self.add(name, "", "cannot be read: " + (error.strerror or repr(error)))

    def command(self, name, *words):
        """Keep the end of what a command prints, and return all that was read of it."""
        try:
            # Nothing is read from the operator's terminal.
            nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
            process = subprocess.Popen(words, stdin=nothing, stdout=pipe, stderr=subprocess.STDOUT)
        except OSError as error:
            self.add(name, "", "not run: " + (error.strerror or repr(error)))
            return ""
        patience = max(0.1, min(COMMAND_TIMEOUT_S, self.deadline - time.monotonic()))
        timer = threading.Timer(patience, process.kill)
        timer.start()
        said = b""
        while more := process.stdout.read(65536):
            said = (said + more)[-2 * self.most_file_bytes :]
        status = process.wait()
        stopped = not timer.is_alive()
        timer.cancel()
        text = said.decode(errors="replace")
        ended = f"exit status {status}" if status else ""
        self.add(name, text, f"stopped after {patience:.0f} s" if stopped else ended)
        return text

    def archive(self):
        """The files and what is to know of each, as a compressed archive."""
        made = io.BytesIO()
        index = json.dumps(self.notes, indent=1).encode() + b"\n"
        with tarfile.open(fileobj=made, mode="w:gz") as tar:
            for name, data in [("index.json", index), *self.files.items()]:
                entry = tarfile.TarInfo("surefoot-support/" + name)
                entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
                tar.addfile(entry, io.BytesIO(data))
        return made.getvalue()


def gather(bundle, asked):
    """Ask the device, what matters most first: what comes last finds the least room."""
    surefoot = [asked["executable"], "--config", asked["config"]]
    bundle.command("status.json", *surefoot, "status", "--json")
    models = bundle.command("model-status.json", *surefoot, "model", "status", "--json")
    bundle.command("doctor.json", *surefoot, "doctor", "--json")
    bundle.file("surefoot.toml", asked["config"])
    units = [word for unit in asked["units"] for word in ("--unit", unit)]
    bundle.command("journal.txt", "journalctl", "--no-pager", "--output=short-iso", "--since", asked["since"], *units)
    try:
        names = [each["name"] for each in json.loads(models)["models"]]
    except (ValueError, KeyError, TypeError):
        names = []
    for name in names[:MOST_MODELS]:
        bundle.command(f"history-{name}.json", *surefoot, "model", "history", name, "--json")
    bundle.command("units.txt", "systemctl", "--no-pager", "--full", "status", "--lines=0", *asked["units"])
    bundle.command("failed-units.txt", "systemctl", "--no-pager", "--plain", "--failed")
    bundle.command("kernel.txt", "journalctl", "--no-pager", "--output=short-iso", "--dmesg", "--since", asked["since"])
    bundle.file("os-release", "/etc/os-release")
    bundle.command("kernel-release.txt", "uname", "--all")
    bundle.command("uptime.txt", "uptime")
    bundle.command("disk.txt", "df", "-PTk")
    bundle.command("inodes.txt", "df", "-Pi")
    bundle.file("mounts.txt", "/proc/self/mountinfo")
    bundle.file("memory.txt", "/proc/meminfo")
    bundle.command("docker-ps.txt", "docker", "ps", "--all", "--no-trunc")
    bundle.command("docker-info.txt", "docker", "info")
    bundle.command("packages.txt", "dpkg-query", "--show")
    for path in sorted(Path(asked["data_dir"]).glob("logs/*.log"))[:MOST_LOGS]:
        bundle.file("logs/" + path.name, path)


def main(asked):
    """Write the archive and print where it is.

    Args:
        asked: ``executable`` and ``config`` of the app, ``data_dir``, ``secrets`` (a folder), ``units``, ``since``,
            ``most_file_bytes`` and ``most_bytes`` of the contents.
    """
    bundle = Gathering(asked["most_file_bytes"], asked["most_bytes"], read_secrets(asked["secrets"]))
    gather(bundle, asked)
    memory = Path("/dev/shm")  # noqa: S108  # the file in it gets a name of its own, and mode 0600
    with tempfile.NamedTemporaryFile(
        dir=str(memory) if memory.is_dir() else None, prefix="surefoot-support-", suffix=".tar.gz", delete=False
    ) as stream:
        stream.write(bundle.archive())
    print(json.dumps({"path": stream.name, "files": bundle.notes}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
