"""When a watchdog is fed: the decision, and what it is made from. No device, clock or process."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "roles" / "watchdog" / "files" / "watchdog.py"


def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("surefoot_watchdog", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


watchdog = program()
Sight, Limits = watchdog.Sight, watchdog.Limits
LIMITS = Limits(silence_s=60, start_s=300, load_s=600)
LOADED = {"LoadState": "loaded", "ActiveEnterTimestampMonotonic": "50000000"}  # 50 s


def fed(now_s: float, **sight: Any) -> bool:
    return bool(watchdog.decide(now_s, Sight(**({"since_s": 0.0} | sight)), LIMITS).feed)


def test_it_is_fed_while_the_gateway_answers() -> None:
    assert fed(1000, answered_s=995, app="running")
    assert fed(1000, answered_s=940, app="running")


@pytest.mark.parametrize("app", ["running", "unknown"])
def test_it_is_not_fed_once_the_gateway_hangs(app: str) -> None:
    assert not fed(1000, answered_s=939, app=app)


def test_an_app_that_never_answered_has_the_time_of_a_start() -> None:
    assert fed(300, app="running")
    assert not fed(301, app="running")


def test_an_app_that_systemd_started_again_has_the_time_of_a_start_from_its_last_answer() -> None:
    assert fed(1000, answered_s=700, app="starting")
    assert not fed(1000, answered_s=699, app="starting")


def test_a_slow_load_is_waited_for_and_one_without_end_is_not() -> None:
    assert fed(1000, answered_s=500, loading_s=400, app="running")
    assert not fed(1001, answered_s=500, loading_s=400, app="running")


def test_an_app_that_was_stopped_on_purpose_is_never_reset() -> None:
    assert fed(1e6, answered_s=10, app="stopped")


def test_an_app_that_was_stopped_and_started_has_the_time_of_a_start_from_then() -> None:
    assert fed(5300, since_s=5000, answered_s=100, app="running")
    assert not fed(5301, since_s=5000, answered_s=100, app="running")


def test_whatever_is_known_there_is_an_end_unless_the_app_is_stopped() -> None:
    times = (None, 0.0, 500.0, 1000.0)
    for answered_s, loading_s, app in itertools.product(times, times, ("running", "starting", "unknown")):
        assert not fed(1000 + 601, answered_s=answered_s, loading_s=loading_s, app=app)


@pytest.mark.parametrize(
    ("state", "answered_s", "expected"),
    [
        ("active", 60.0, "running"),
        ("active", 40.0, "starting"),  # it became active after its last answer
        ("active", None, "running"),
        ("failed", 60.0, "running"),
        ("activating", 60.0, "starting"),
        ("deactivating", 60.0, "starting"),
        ("inactive", 60.0, "stopped"),
    ],
)
def test_the_apps_unit_says_what_it_does(state: str, answered_s: float | None, expected: str) -> None:
    assert watchdog.app_state(LOADED | {"ActiveState": state}, answered_s, published=True) == expected


def test_an_app_without_a_unit_is_only_taken_for_absent_where_it_left_no_word() -> None:
    absent = {"LoadState": "not-found", "ActiveState": "inactive"}
    assert watchdog.app_state(absent, None, published=False) == "stopped"
    assert watchdog.app_state(absent, None, published=True) == "unknown"


def test_a_systemd_that_does_not_answer_never_means_stopped() -> None:
    assert watchdog.app_state({}, None, published=False) == "unknown"


def status(state: str = "serving", digest: str | None = "d1", active: str | None = "d1", other: str = "empty") -> Any:
    slots = {"active": {"digest": active} if active else None, "slots": {"a": {}, "b": {"status": other}}}
    return {"models": [{"state": state, "digest": digest, "slots": slots}]}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (status(), False),
        (status("loading", None), True),
        (status(active="d2"), True),  # what is recorded does not serve yet
        (status(other="filling"), True),
        (status(other="staged"), True),
        (status(other="confirmed"), False),
        (status("empty", None, None), False),
        ({"models": []}, False),
        (None, False),
    ],
)
def test_a_load_is_seen_in_what_the_gateway_says(said: Any, expected: bool) -> None:
    assert watchdog.loads(said) is expected


def test_a_load_is_seen_in_the_apps_own_status() -> None:
    from msgspec import to_builtins

    from surefoot.serving.status import ModelServing

    model = to_builtins(ModelServing(name="m", state="loading"))
    assert watchdog.loads(json.loads(json.dumps({"models": [model]})))
    assert not watchdog.loads({"models": [model | {"state": "serving"}]})


def entries(*events: tuple[str, str]) -> list[dict[str, str]]:
    return [{"event": event, "boot": boot} for event, boot in events]


def test_resets_are_counted_by_boots_without_an_answer() -> None:
    silent = entries(("silent", "one"), ("answered", "one"), ("silent", "two"), ("silent", "two"), ("silent", "three"))
    assert watchdog.unanswered(silent) == {"two", "three"}
    assert watchdog.unanswered([*silent, {"event": "answered"}]) == set()
    assert watchdog.unanswered([]) == set()


def test_each_reset_in_a_row_doubles_the_time_of_a_start_up_to_an_hour() -> None:
    assert [watchdog.patient(LIMITS, resets).start_s for resets in (0, 1, 2, 3, 4, 40)] == [
        300, 600, 1200, 2400, 3600, 3600,
    ]  # fmt: skip
    assert watchdog.patient(LIMITS._replace(start_s=7200), 1).start_s == 7200
    assert watchdog.patient(LIMITS, 3).silence_s == 60


def test_the_record_is_bounded_and_keeps_what_is_newest() -> None:
    record = b""
    for number in range(100):
        record = watchdog.appended(record, json.dumps({"number": number, "log": "x" * 30_000}).encode() + b"\n")
        assert len(record) <= watchdog.MOST_RECORD_BYTES
    numbers = [json.loads(line)["number"] for line in record.splitlines()]
    assert numbers == list(range(100 - len(numbers), 100))
    assert len(numbers) >= 30


def test_an_entry_is_written_whole_and_a_torn_one_ends_the_row(tmp_path: Path) -> None:
    record = watchdog.Record(tmp_path, "three")
    record.add("silent", why="test")
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["why"] == "test"
    assert record.unanswered() == {"three"}
    path.write_bytes(path.read_bytes() + b'{"event": "sil')
    assert record.unanswered() == set()


def test_a_disk_that_takes_no_record_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watchdog.Record(tmp_path / "gone", "one").add("silent")
    assert "the record was not written" in capsys.readouterr().out


def test_the_program_needs_only_the_standard_library() -> None:
    roots = {name.split(".")[0] for line in PROGRAM.read_text().splitlines() for name in imported(line)}
    assert roots <= set(sys.stdlib_module_names)


def imported(line: str) -> list[str]:
    words = line.split()
    return [words[1]] if words[:1] in (["import"], ["from"]) and len(words) > 1 else []
