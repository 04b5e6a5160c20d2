"""What an agent has to do, seen from a second Prometheus that it sends to. Fails at the first wrong turn."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

RECEIVER = "http://127.0.0.1:9091"
SERVICES = ("surefoot-node-exporter", "surefoot-telemetry")
ON_DISK = ("/data", "/etc", "/home", "/opt", "/root", "/srv", "/usr", "/var")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def show(unit, name):
    return run("systemctl", "show", f"--property={name}", "--value", f"{unit}.service")


def answer(url, most_s=30):
    """The JSON there, once somebody answers."""
    end_s = time.monotonic() + most_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return json.load(response)
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < end_s, f"{url} does not answer"
            time.sleep(0.3)


def samples(query):
    """[time, value] of the only series."""
    found = answer(f"{RECEIVER}/api/v1/query?query={urllib.parse.quote(query)}")["data"]["result"]
    return found[0]["values"] if found else []


def it_waits_in_memory_while_nobody_receives_and_arrives_with_the_token():
    begun_s = time.time()
    run(
        "systemd-run", "--unit=receiver", "--property=RuntimeDirectory=receiver", "prometheus",
        "--config.file=/dev/null", "--web.enable-remote-write-receiver", "--storage.tsdb.path=/run/receiver",
        "--web.listen-address=127.0.0.1:9091",
    )  # fmt: skip
    query = 'up{job="surefoot",device="telemetry"}[10m]'
    end_s = time.monotonic() + 60
    while not (found := samples(query)) or float(found[-1][0]) < begun_s + 1:
        assert time.monotonic() < end_s, "nothing arrives"
        time.sleep(0.5)
    early = [at for at, _ in found if float(at) < begun_s]
    assert early, "what was seen before anybody received is lost"
    assert {value for _, value in found} == {"1"}, found
    assert samples('surefoot_requests_total{device="telemetry"}[10m]')
    assert samples('node_memory_MemTotal_bytes{job="node",device="telemetry"}[10m]')
    return f"{len(early)} of {len(found)} looks were made before, the first {begun_s - early[0]:.0f} s"


def nothing_arrives_without_the_token():
    request = urllib.request.Request("http://127.0.0.1:9092/api/v1/write", b"x", method="POST")
    try:
        urllib.request.urlopen(request, timeout=5)
    except urllib.error.HTTPError as error:
        assert error.code == 401
    else:
        raise AssertionError("anybody may send")


def it_writes_nothing_outside_of_memory():
    marker = Path("/run/marker")
    marker.touch()
    time.sleep(10)  # five looks, and what they send
    newer = run(
        "find", *(path for path in ON_DISK if Path(path).exists()), "-xdev", "-newer", str(marker), "-type", "f"
    )
    ours = [path for path in newer.splitlines() if not path.startswith("/var/log/")]  # logins are noted there
    assert ours == [], ours
    written = {}
    for unit in SERVICES:
        for line in run("cat", f"/proc/{show(unit, 'MainPID')}/io").splitlines():
            if line.startswith("write_bytes"):
                written[unit] = int(line.split()[1])
    assert written == dict.fromkeys(SERVICES, 0), written
    kept = run("find", "/var/lib/prometheus", "-type", "f")
    assert kept == "", kept
    return f"bytes written to disks {written}"


def was_started(unit):
    return "Started" in run("journalctl", "--quiet", "--no-pager", f"--unit={unit}.service")


def the_services_of_the_packages_never_ran():
    assert all(map(was_started, SERVICES)), "the journal does not tell"
    for unit in ("prometheus", "prometheus-node-exporter"):
        assert show(unit, "LoadState") == "masked"
        assert not was_started(unit), unit


def the_token_is_seen_by_nobody():
    path = Path("/data/surefoot/secrets/telemetry-token")
    assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o600, 0)
    token = path.read_text()
    places = ("/etc", "/var", "/usr/local/sbin", "/run/systemd/system")
    found = subprocess.run(["grep", "-rlsF", token, *places], capture_output=True, text=True).stdout
    assert found == "", found
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        assert token not in command.read_text(errors="replace"), command
    assert token not in run("journalctl", "--quiet", "--no-pager")


def each_service_is_locked_in():
    said = {}
    for unit in SERVICES:
        last = run("systemd-analyze", "security", "--no-pager", f"{unit}.service").splitlines()[-1]
        said[unit] = float(last.split(":")[1].split()[0])
    assert max(said.values()) <= 2.5, said
    memory = {unit: f"{int(show(unit, 'MemoryCurrent')) / 1e6:.0f} MB" for unit in SERVICES}
    return f"exposure {said}, memory {memory}"


for step in (
    it_waits_in_memory_while_nobody_receives_and_arrives_with_the_token,
    nothing_arrives_without_the_token,
    it_writes_nothing_outside_of_memory,
    the_services_of_the_packages_never_ran,
    the_token_is_seen_by_nobody,
    each_service_is_locked_in,
):
    said = step()
    print(f"{step.__name__.replace('_', ' ')}{': ' + said if said else ''}")
