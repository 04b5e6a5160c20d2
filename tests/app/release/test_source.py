"""Reading a repository: from a folder and over a line that misbehaves."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from surefoot.config import Fetch
from surefoot.errors import BadRequest, SurefootError, TransportFailed, UntrustedRelease
from surefoot.release import pacing, source
from surefoot.release import web as over_web
from surefoot.release.location import open_source
from surefoot.release.source import FileSource, NotFound
from tests.app.release.reaching import CHANCE, Waits, got, reach
from tests.app.release.webserver import Fault, WebServer

DATA = bytes(range(256)) * 1024


@pytest.fixture
def web(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file.bin").write_bytes(DATA)
    (tmp_path / "secret").write_bytes(b"secret")
    with WebServer(tmp_path / "here") as server:
        yield server


def both(web: WebServer) -> list[source.Source]:
    return [FileSource(web.folder), reach(web.url)]


@pytest.mark.parametrize("form", ["{folder}", "file://{folder}", "file://localhost{folder}", "{url}", "{url}/"])
def test_every_form_of_location_is_read(web, form):
    where = reach(form.format(folder=web.folder, url=web.url))
    assert where.read("file.bin", len(DATA)) == DATA


@pytest.mark.parametrize("location", ["", "ftp://host/x", "http://", "file://elsewhere/x", "s3://bucket"])
def test_other_locations_are_refused(location):
    with pytest.raises(BadRequest, match="not a place"):
        reach(location)


def test_what_is_not_there_is_not_found(web):
    for where in both(web):
        with pytest.raises(NotFound):
            where.read("nothing.json", 100)
        with pytest.raises(NotFound):
            where.read("file.bin/below.json", 100)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_how_object_stores_say_not_there(web, status):
    web.fail("file.bin", Fault(status=status))
    with pytest.raises(NotFound):
        got(reach(web.url))


@pytest.mark.parametrize("status", [204, 400, 401, 418, 501])
def test_other_answers_end_it_at_once(web, status):
    web.fail("file.bin", Fault(status=status))
    with pytest.raises(TransportFailed, match="did not arrive") as caught:
        got(reach(web.url))
    assert not isinstance(caught.value, NotFound)
    assert caught.value.found == f"HTTP {status}"
    assert len(web.requests) == 1


@pytest.mark.parametrize("status", sorted(over_web.LATER))
def test_answers_that_may_be_another_next_time_are_asked_for_again(web, status):
    web.fail("file.bin", Fault(status=status), Fault(status=status))
    assert got(reach(web.url)) == DATA
    assert len(web.requests) == 3


def test_answers_that_stay_bad_end_it(web):
    web.fail("file.bin", *(Fault(status=503) for _ in range(50)))
    with pytest.raises(TransportFailed, match="did not arrive") as caught:
        got(reach(web.url, retries=3))
    assert caught.value.found == "0 bytes, then HTTP 503, 4 failures in a row"
    assert len(web.requests) == 4


@pytest.mark.attack
def test_more_than_asked_for_is_refused(web):
    for where in both(web):
        assert where.read("file.bin", len(DATA)) == DATA
        with pytest.raises(UntrustedRelease, match="longer than it can be"):
            where.read("file.bin", len(DATA) - 1)


@pytest.mark.attack
def test_an_endless_answer_is_left(web):
    web.fail("file.bin", Fault(endless=True))
    with pytest.raises(UntrustedRelease, match="longer than it can be"):
        reach(web.url).read("file.bin", 100_000)


@pytest.mark.parametrize("offset", [0, 1, 1000, len(DATA) - 1, len(DATA), len(DATA) + 5])
def test_reading_goes_on_from_an_offset(web, offset):
    for where in both(web):
        assert b"".join(piece.data for piece in where.stream("file.bin", offset)) == DATA[offset:]


def test_a_server_that_ignores_ranges_begins_anew(web):
    web.fail("file.bin", Fault(whole=True))
    assert got(reach(web.url), offset=70_000, here=b"?" * 70_000) == DATA


def test_a_server_that_answers_an_earlier_range_is_skipped_through(web):
    web.fail("file.bin", Fault(start=500))
    assert got(reach(web.url), offset=70_000, here=DATA[:70_000]) == DATA


@pytest.mark.attack
def test_a_server_that_answers_a_later_range_is_refused(web):
    web.fail("file.bin", Fault(start=80_000))
    with pytest.raises(TransportFailed, match="another range"):
        got(reach(web.url), offset=70_000)


def test_a_broken_line_is_taken_up_again_where_it_broke(web):
    web.fail("file.bin", Fault(cut=100_000), Fault(cut=50_000))
    assert got(reach(web.url)) == DATA
    assert web.asked("file.bin") == [None, "bytes=100000-", "bytes=150000-"]


def test_a_file_that_changes_meanwhile_is_not_glued_together(web):
    """If-Range: the server then sends the whole new file, and what was read of the old one is void."""
    web.fail("file.bin", Fault(cut=100_000))

    def change(path: str) -> None:
        if len(web.requests) == 2:
            (web.folder / "file.bin").write_bytes(b"n" * len(DATA))

    web.change = change
    same = got(reach(web.url)) == b"n" * len(DATA)  # pytest would take minutes to show where long bytes differ
    assert same
    assert web.asked("file.bin") == [None, "bytes=100000-"]


def test_mutant_without_if_range_two_files_are_glued_together(web, monkeypatch):
    monkeypatch.setattr(over_web, "strong", lambda tag: "")
    with pytest.raises(AssertionError):
        test_a_file_that_changes_meanwhile_is_not_glued_together(web)


@pytest.mark.attack
def test_a_part_of_another_file_from_a_server_that_ignores_if_range_is_not_taken(web):
    web.fail("file.bin", Fault(unconditional=True))
    where = reach(web.url)
    assert got(where, offset=70_000, here=b"?" * 70_000, tag='"another"') == DATA
    assert web.asked("file.bin") == ["bytes=70000-", None]


def test_a_tag_that_could_be_two_files_is_none(web):
    web.tag = lambda data: f'W/"{len(data)}"'
    assert {piece.tag for piece in reach(web.url).stream("file.bin")} == {""}


def test_a_line_that_breaks_without_progress_is_given_up(web):
    web.fail("file.bin", Fault(cut=10), *(Fault(cut=0) for _ in range(50)))
    with pytest.raises(TransportFailed, match="did not arrive") as caught:
        got(reach(web.url))
    assert caught.value.found.startswith("10 bytes, then ")
    assert len(web.requests) == Fetch().retries + 1


def test_progress_starts_the_count_of_failures_anew(web, monkeypatch):
    monkeypatch.setattr(pacing, "PROGRESS_BYTES", 20_000)
    web.fail("file.bin", *(Fault(cut=cut) for _ in range(10) for cut in (0, 0, 20_000)))
    assert got(reach(web.url, retries=3)) == DATA
    assert len(web.requests) > 30


def test_coming_to_the_same_place_again_is_no_progress(web, monkeypatch):
    """A server that ignores ranges and always breaks off at the same byte."""
    monkeypatch.setattr(pacing, "PROGRESS_BYTES", 20_000)
    web.fail("file.bin", *(Fault(cut=100_000, whole=True) for _ in range(50)))
    with pytest.raises(TransportFailed):
        got(reach(web.url, retries=3))
    assert len(web.requests) == 3 + 1


def test_mutant_with_every_byte_as_progress_it_never_ends(web, monkeypatch):
    monkeypatch.setattr(pacing.Tries, "reached", lambda self, offset: setattr(self, "failures", 0))
    web.fail("file.bin", *(Fault(cut=100_000, whole=True) for _ in range(50)))
    assert got(reach(web.url, retries=3)) == DATA
    assert len(web.requests) == 51


def test_an_answer_that_ends_early_is_gone_on_from(web):
    """Its Content-Length says that it is whole."""
    web.fail("file.bin", Fault(body=DATA[:5000]))
    web.tag = lambda data: '"the same"'
    assert got(reach(web.url), length=len(DATA)) == DATA
    assert web.asked("file.bin") == [None, "bytes=5000-"]


def test_waits_double_and_are_half_chance(web):
    waits = Waits()
    web.fail("file.bin", *(Fault(status=503) for _ in range(50)))
    with pytest.raises(TransportFailed):
        got(reach(web.url, waits=waits, retries=6, most_wait_s=10))
    assert waits == [0.75, 1.5, 3.0, 6.0, 7.5, 7.5]
    assert [pacing.backoff_s(3, chance, 60) for chance in (0, CHANCE, 1)] == [2, 3, 4]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "40"}, 40 * 1.125),
        ({"Retry-After": "Sun, 06 Nov 1994 08:50:17 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 40 * 1.125),
        ({"Retry-After": "Sunday, 06-Nov-94 08:50:17 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 40 * 1.125),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT", "Date": "Sun, 06 Nov 1994 08:59:37 GMT"}, 0.75),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT", "Date": ""}, 0.75),
        ({"Retry-After": "0"}, 0.75),
        ({"Retry-After": "-1"}, 0.75),
        ({"Retry-After": "soon"}, 0.75),
        ({"Retry-After": "9" * 40}, 0.75),
        ({"Retry-After": "Sun, 99 Nov 1994 99:99:99 GMT"}, 0.75),
    ],
)
def test_a_server_may_say_when_to_come_back(web, status, headers, wait_s):
    waits = Waits()
    web.fail("file.bin", Fault(status=status, headers=headers))
    assert got(reach(web.url, waits=waits)) == DATA
    assert waits == [wait_s]


@pytest.mark.attack
def test_a_server_that_asks_for_too_long_is_left(web):
    waits = Waits()
    web.fail("file.bin", Fault(status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(TransportFailed, match=r"asks to wait for 3600 s.*at most 5, and 300 s to wait"):
        got(reach(web.url, waits=waits))
    assert waits == []


def test_a_cap_holds_the_rate(web):
    """On a clock of its own, on which only waiting takes time."""
    now = [0.0]
    timing = pacing.Timing(lambda: now[0], lambda s: now.__setitem__(0, now[0] + s), lambda: CHANCE)
    fetch = Fetch(timeout_s=5, most_bytes_s=50_000)
    where = open_source(web.url, fetch, timing)
    sizes = [len(piece.data) for piece in where.stream("file.bin")]
    assert now[0] == pytest.approx(len(DATA) / 50_000)
    assert max(sizes) <= 50_000 / pacing.CHUNKS_A_SECOND
    assert got(where) == DATA  # and of two files together
    assert now[0] == pytest.approx(2 * len(DATA) / 50_000)


@pytest.mark.attack
def test_an_encoding_that_was_not_asked_for_is_refused(web):
    web.fail("file.bin", Fault(headers={"Content-Encoding": "gzip"}))
    with pytest.raises(TransportFailed, match=r"form that was not asked for.*gzip"):
        got(reach(web.url))


def test_a_server_that_does_not_answer_is_left_in_time(web):
    web.fail("file.bin", *(Fault(hang=True) for _ in range(9)))
    with pytest.raises(TransportFailed, match="did not arrive"):
        got(reach(web.url, 0.2))


def test_nobody_there_is_a_failed_transport():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(TransportFailed, match="did not arrive"):
        reach(f"http://127.0.0.1:{port}", 2).read("file.bin", 10)


def test_a_redirect_is_followed(web):
    web.fail("old.bin", Fault(location="/file.bin"))
    assert got(reach(web.url), "old.bin") == DATA


def test_a_redirect_keeps_the_range(web):
    web.fail("file.bin", Fault(location="/file.bin"))
    assert got(reach(web.url), offset=70_000, here=DATA[:70_000]) == DATA
    assert web.asked("file.bin") == ["bytes=70000-", "bytes=70000-"]


@pytest.mark.attack
def test_redirects_in_a_circle_end(web):
    web.fail("file.bin", *(Fault(location="/file.bin") for _ in range(50)))
    with pytest.raises(TransportFailed, match="redirects too often"):
        got(reach(web.url))
    assert len(web.requests) == over_web.MOST_REDIRECTS + 1


@pytest.mark.attack
@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_elsewhere_is_not_followed(web, target):
    web.fail("file.bin", Fault(location=target))
    with pytest.raises(TransportFailed, match="where we do not follow"):
        got(reach(web.url))


@pytest.mark.attack
def test_https_is_never_left_by_a_redirect():
    """The rule alone."""
    with pytest.raises(TransportFailed, match="where we do not follow"):
        over_web.redirected("https://example.org/a", "http://example.org/a")
    assert over_web.redirected("http://example.org/a", "https://example.org/b") == "https://example.org/b"


@pytest.mark.attack
@pytest.mark.parametrize("location", ["", "http://[broken/", "https://"])
def test_a_redirect_to_nowhere_is_refused(location):
    with pytest.raises(TransportFailed, match="where we do not follow"):
        over_web.redirected("http://example.org/a", location)


@pytest.mark.attack
@pytest.mark.parametrize(
    "relative",
    ["../secret", "/etc/passwd", "a/../../secret", "", ".", "..", "a//b", "a\\b", "a\x00b", ".hidden", "a/./b"],
)
def test_paths_that_lead_out_are_refused(web, relative):
    for where in both(web):
        with pytest.raises(UntrustedRelease, match="leads out"):
            where.read(relative, 100)
    assert web.requests == []


@pytest.mark.attack
def test_a_link_out_of_the_folder_is_refused(web):
    (web.folder / "link.json").symlink_to(web.folder.parent / "secret")
    with pytest.raises(UntrustedRelease, match="leads out"):
        FileSource(web.folder).read("link.json", 100)


def test_a_link_inside_the_folder_is_followed(web):
    (web.folder / "link.bin").symlink_to("file.bin")
    assert got(FileSource(web.folder), "link.bin") == DATA


def test_a_repository_reached_through_a_link_is_read(web, tmp_path):
    (tmp_path / "link").symlink_to(web.folder)
    assert got(FileSource(tmp_path / "link")) == DATA


@pytest.mark.attack
def test_a_pipe_does_not_stop_us(web):
    os.mkfifo(web.folder / "pipe.json")
    with pytest.raises(UntrustedRelease, match="not a plain file"):
        FileSource(web.folder).read("pipe.json", 100)


def test_a_folder_is_no_file(web):
    (web.folder / "folder.json").mkdir()
    with pytest.raises(SurefootError):
        FileSource(web.folder).read("folder.json", 100)


def test_a_quoted_file_address_is_read(tmp_path: Path):
    (tmp_path / "with space").mkdir()
    (tmp_path / "with space" / "a.json").write_bytes(b"1")
    assert reach((tmp_path / "with space").as_uri()).read("a.json", 9) == b"1"
