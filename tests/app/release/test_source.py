"""Reading a repository: from a folder and over a line that misbehaves."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from surefoot.errors import BadRequest, SurefootError, TransportFailed, UntrustedRelease
from surefoot.release import source
from surefoot.release.source import FileSource, HttpSource, NotFound, open_source
from tests.app.release.webserver import Fault, WebServer

DATA = bytes(range(256)) * 1024


@pytest.fixture
def web(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file.bin").write_bytes(DATA)
    (tmp_path / "secret").write_bytes(b"secret")
    with WebServer(tmp_path / "here") as server:
        yield server


def got(where: source.Source, relative: str = "file.bin", offset: int = 0) -> bytes:
    return b"".join(where.stream(relative, offset))


def both(web: WebServer) -> list[source.Source]:
    return [FileSource(web.folder), open_source(web.url, 5)]


@pytest.mark.parametrize("form", ["{folder}", "file://{folder}", "file://localhost{folder}", "{url}", "{url}/"])
def test_every_form_of_location_is_read(web, form):
    where = open_source(form.format(folder=web.folder, url=web.url), 5)
    assert where.read("file.bin", len(DATA)) == DATA


@pytest.mark.parametrize("location", ["", "ftp://host/x", "http://", "file://elsewhere/x", "s3://bucket"])
def test_other_locations_are_refused(location):
    with pytest.raises(BadRequest, match="not a place"):
        open_source(location, 5)


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
        got(open_source(web.url, 5))


@pytest.mark.parametrize("status", [204, 400, 418, 500, 503])
def test_other_answers_are_a_failed_transport(web, status):
    web.fail("file.bin", Fault(status=status))
    with pytest.raises(TransportFailed, match="did not arrive") as caught:
        got(open_source(web.url, 5))
    assert not isinstance(caught.value, NotFound)
    assert caught.value.found == f"HTTP {status}"


def test_more_than_asked_for_is_refused(web):
    for where in both(web):
        assert where.read("file.bin", len(DATA)) == DATA
        with pytest.raises(UntrustedRelease, match="longer than it can be"):
            where.read("file.bin", len(DATA) - 1)


def test_an_endless_answer_is_left(web):
    web.fail("file.bin", Fault(endless=True))
    with pytest.raises(UntrustedRelease, match="longer than it can be"):
        open_source(web.url, 5).read("file.bin", 100_000)


@pytest.mark.parametrize("offset", [0, 1, 1000, len(DATA) - 1, len(DATA), len(DATA) + 5])
def test_reading_goes_on_from_an_offset(web, offset):
    for where in both(web):
        assert got(where, offset=offset) == DATA[offset:]


def test_a_server_that_ignores_ranges_is_skipped_through(web):
    web.fail("file.bin", Fault(whole=True))
    assert got(open_source(web.url, 5), offset=70_000) == DATA[70_000:]


def test_a_server_that_answers_an_earlier_range_is_skipped_through(web):
    web.fail("file.bin", Fault(start=500))
    assert got(open_source(web.url, 5), offset=70_000) == DATA[70_000:]


def test_a_server_that_answers_a_later_range_is_refused(web):
    web.fail("file.bin", Fault(start=80_000))
    with pytest.raises(TransportFailed, match="another range"):
        got(open_source(web.url, 5), offset=70_000)


def test_a_broken_line_is_taken_up_again_where_it_broke(web):
    web.fail("file.bin", Fault(cut=100_000), Fault(cut=50_000))
    assert got(open_source(web.url, 5)) == DATA
    assert web.asked("file.bin") == [None, "bytes=100000-", "bytes=150000-"]


def test_a_file_that_changes_meanwhile_is_not_glued_together(web):
    """If-Range: the server then sends the whole new file, of which what was read already is skipped, not mixed in."""
    web.fail("file.bin", Fault(cut=100_000))

    def change(path: str) -> None:
        if len(web.requests) == 2:
            (web.folder / "file.bin").write_bytes(b"n" * len(DATA))

    web.change = change
    assert got(open_source(web.url, 5)) == DATA[:100_000] + b"n" * (len(DATA) - 100_000)


def test_a_line_that_breaks_without_progress_is_given_up(web):
    web.fail("file.bin", Fault(cut=10), Fault(cut=0))
    with pytest.raises(TransportFailed, match="did not arrive") as caught:
        got(open_source(web.url, 5))
    assert caught.value.found.startswith("10 bytes, then ")
    assert len(web.requests) == 2


def test_a_line_that_breaks_too_often_is_given_up(web):
    web.fail("file.bin", *(Fault(cut=10) for _ in range(50)))
    with pytest.raises(TransportFailed):
        got(open_source(web.url, 5))
    assert len(web.requests) == source.MOST_RECONNECTS + 1


def test_a_server_that_does_not_answer_is_left_in_time(web):
    web.fail("file.bin", Fault(hang=True))
    with pytest.raises(TransportFailed, match="did not arrive"):
        got(open_source(web.url, 0.2))


def test_nobody_there_is_a_failed_transport():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(TransportFailed, match="did not arrive"):
        open_source(f"http://127.0.0.1:{port}", 2).read("file.bin", 10)


def test_a_redirect_is_followed(web):
    web.fail("old.bin", Fault(location="/file.bin"))
    assert got(open_source(web.url, 5), "old.bin") == DATA


def test_a_redirect_keeps_the_range(web):
    web.fail("file.bin", Fault(location="/file.bin"))
    assert got(open_source(web.url, 5), offset=70_000) == DATA[70_000:]
    assert web.asked("file.bin") == ["bytes=70000-", "bytes=70000-"]


def test_redirects_in_a_circle_end(web):
    web.fail("file.bin", *(Fault(location="/file.bin") for _ in range(50)))
    with pytest.raises(TransportFailed, match="redirects too often"):
        got(open_source(web.url, 5))
    assert len(web.requests) == source.MOST_REDIRECTS + 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_elsewhere_is_not_followed(web, target):
    web.fail("file.bin", Fault(location=target))
    with pytest.raises(TransportFailed, match="where we do not follow"):
        got(open_source(web.url, 5))


def test_https_is_never_left_by_a_redirect(web):
    """The rule alone: no certificate here is one that a client would believe."""
    with pytest.raises(TransportFailed, match="where we do not follow"):
        source.check_redirect("https://example.org/a", "http://example.org/a")
    source.check_redirect("http://example.org/a", "https://example.org/a")


@pytest.mark.parametrize(
    "relative",
    ["../secret", "/etc/passwd", "a/../../secret", "", ".", "..", "a//b", "a\\b", "a\x00b", ".hidden", "a/./b"],
)
def test_paths_that_lead_out_are_refused(web, relative):
    for where in both(web):
        with pytest.raises(UntrustedRelease, match="leads out"):
            where.read(relative, 100)
    assert web.requests == []


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


def test_a_pipe_does_not_stop_us(web):
    os.mkfifo(web.folder / "pipe.json")
    with pytest.raises(UntrustedRelease, match="not a plain file"):
        FileSource(web.folder).read("pipe.json", 100)


def test_a_folder_is_no_file(web):
    (web.folder / "folder.json").mkdir()
    with pytest.raises(SurefootError):
        FileSource(web.folder).read("folder.json", 100)


def test_dripping_metadata_has_a_deadline(web, monkeypatch):
    """Bytes that come just often enough for the timeout still end: here each reading of the clock is a second on."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(source.time, "monotonic", lambda: float(next(ticks)))
    with pytest.raises(TransportFailed, match="too slowly"):
        HttpSource(web.url, 0.5).read("file.bin", len(DATA))


def test_a_quoted_file_address_is_read(tmp_path: Path):
    (tmp_path / "with space").mkdir()
    (tmp_path / "with space" / "a.json").write_bytes(b"1")
    assert open_source((tmp_path / "with space").as_uri(), 5).read("a.json", 9) == b"1"
