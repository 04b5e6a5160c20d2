"""What the watchdog has to do, played on a device whose watchdog and gateway are doubles."""

import json
import signal
import subprocess
import time
from pathlib import Path

NOTES = Path("/run/watchdog-double.jsonl")
LOADS = Path("/run/surefoot/loads")
RECORD = Path("/data/surefoot/watchdog/silences.jsonl")
SILENCE_S, TIMEOUT_S = 4, 5  # converge.yml
LATE_S = 2.5  # a test machine is busy


def systemctl(*arguments):
    done = subprocess.run(["systemctl", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def send(number, unit):
    systemctl("kill", "--kill-who=main", f"--signal={number.name}", unit)


def notes(since_s):
    found = map(json.loads, NOTES.read_text().splitlines())
    return [note for note in found if note["at"] >= since_s]


def events(since_s):
    return [note["event"] for note in notes(since_s)]


def wait_for(event, since_s, most_s):
    """The time of the first such note."""
    while True:
        found = [note["at"] for note in notes(since_s) if note["event"] == event]
        if found:
            return found[0]
        assert time.monotonic() < since_s + most_s, f"no {event} in {most_s} s: {events(since_s)}"
        time.sleep(0.1)


def watch(seconds):
    """What the double notes in that time."""
    begun_s = time.monotonic()
    time.sleep(seconds)
    return events(begun_s)


def entries():
    return [json.loads(line) for line in RECORD.read_text().splitlines()] if RECORD.exists() else []


def fed(seen):
    return len(seen) >= 2 and set(seen) == {"fed"}


def it_is_fed_while_the_gateway_answers_and_writes_nothing():
    seen = watch(4)
    assert fed(seen), seen
    assert not list(RECORD.parent.iterdir())


def it_is_fed_through_a_slow_load():
    LOADS.touch()
    time.sleep(LATE_S)  # for the next question to see it
    send(signal.SIGSTOP, "surefoot.service")
    try:
        seen = watch(SILENCE_S + TIMEOUT_S + LATE_S)
    finally:
        LOADS.unlink()
        send(signal.SIGCONT, "surefoot.service")
    assert fed(seen), seen
    assert not entries(), entries()


def it_is_reset_when_the_gateway_hangs_and_the_reason_is_kept():
    time.sleep(LATE_S)
    subprocess.run(["logger", "last-words"], check=True)
    begun_s = time.monotonic()
    send(signal.SIGSTOP, "surefoot.service")
    try:
        reset_s = wait_for("reset", begun_s, SILENCE_S + TIMEOUT_S + 2 * LATE_S)
    finally:
        send(signal.SIGCONT, "surefoot.service")
    last_s = [note["at"] for note in notes(begun_s) if note["event"] == "fed" and note["at"] < reset_s][-1]
    assert last_s - begun_s <= SILENCE_S + 1, last_s - begun_s
    (entry,) = [entry for entry in entries() if entry["event"] == "silent"]
    assert "last-words" in entry["log"] and "has not answered" in entry["why"], entry
    assert RECORD.stat().st_size < 1_000_000
    again_s = time.monotonic()
    wait_for("fed", again_s, 2 * LATE_S)
    time.sleep(1)
    assert [entry["event"] for entry in entries()] == ["silent", "answered"], entries()
    return f"reset {reset_s - begun_s:.1f} s after the gateway hung, fed for {last_s - begun_s:.1f} s of them"


def it_is_fed_while_the_app_is_stopped_on_purpose():
    systemctl("stop", "surefoot.service")
    seen = watch(SILENCE_S + TIMEOUT_S)
    systemctl("start", "surefoot.service")
    assert fed(seen), seen


def a_stop_closes_it_in_order():
    begun_s = time.monotonic()
    systemctl("stop", "surefoot-watchdog.service")
    wait_for("closed in order", begun_s, LATE_S)
    assert events(begun_s)[-2:] == ["V", "closed in order"], events(begun_s)
    seen = watch(TIMEOUT_S + 1)
    assert seen == [], seen
    systemctl("start", "surefoot-watchdog.service")


def a_kill_closes_it_in_disorder_and_it_is_fed_again_in_time():
    time.sleep(1)
    begun_s = time.monotonic()
    send(signal.SIGKILL, "surefoot-watchdog.service")
    opened_s = wait_for("opened", begun_s, TIMEOUT_S)
    seen = events(begun_s)
    assert "closed in disorder" in seen and "V" not in seen and "reset" not in seen, seen
    return f"open again after {opened_s - begun_s:.1f} s"


def it_is_reset_when_the_program_that_feeds_it_hangs():
    begun_s = time.monotonic()
    send(signal.SIGSTOP, "surefoot-watchdog.service")
    try:
        wait_for("reset", begun_s, TIMEOUT_S + LATE_S)
    finally:
        send(signal.SIGCONT, "surefoot-watchdog.service")
    wait_for("fed", time.monotonic(), LATE_S)
    assert "V" not in events(begun_s), events(begun_s)


for step in (
    it_is_fed_while_the_gateway_answers_and_writes_nothing,
    it_is_fed_through_a_slow_load,
    it_is_reset_when_the_gateway_hangs_and_the_reason_is_kept,
    it_is_fed_while_the_app_is_stopped_on_purpose,
    a_stop_closes_it_in_order,
    a_kill_closes_it_in_disorder_and_it_is_fed_again_in_time,
    it_is_reset_when_the_program_that_feeds_it_hangs,
):
    said = step()
    print(f"double: {step.__name__.replace('_', ' ')}{': ' + said if said else ''}")
