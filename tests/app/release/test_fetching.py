"""Downloads from Debian's nginx over a line that does everything wrong. What each request brought is counted."""

from __future__ import annotations

import http.client
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from surefoot.durable import Disk
from surefoot.errors import TransportFailed, UntrustedRelease
from surefoot.release import connections, web
from surefoot.release import download as downloading
from surefoot.release.download import download
from surefoot.release.metadata import stored_path, target_path
from surefoot.release.source import FileSource, NotFound
from surefoot.release.trust import Trusted, TrustStore
from tests.app.release.publishing import NAME, FixedClock, Publisher
from tests.app.release.reaching import Waits, reach
from tests.parts import nginx
from tests.parts.line import Fault, Line, status, with_header, without

MODEL = os.urandom(300_000)
TARGET = target_path(NAME, "1.0.0", "model.onnx")
QUICK_S = 0.3


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    made = Publisher(tmp_path_factory.mktemp("publisher"))
    made.publish("1.0.0", MODEL)
    return made


@pytest.fixture(scope="module")
def trusted(publisher: Publisher, tmp_path_factory: pytest.TempPathFactory) -> Trusted:
    store = TrustStore(tmp_path_factory.mktemp("trust"), Disk(), FixedClock())
    store.initialise(publisher.root)
    return store.refresh(FileSource(publisher.repository))


@pytest.fixture(scope="module")
def server(
    publisher: Publisher, tmp_path_factory: pytest.TempPathFactory, needs: Callable[[bool, str], None]
) -> Iterator[nginx.Nginx]:
    needs(nginx.possible(), "nginx, or root on Debian to unpack it")
    with nginx.running(publisher.repository, tmp_path_factory.mktemp("n")) as running:
        yield running


@pytest.fixture
def line(server: nginx.Nginx) -> Iterator[Line]:
    with Line(server.plain) as made:
        yield made


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    return tmp_path / "inbox"


@pytest.fixture
def stored(trusted: Trusted) -> str:
    return stored_path(trusted.target(TARGET))


@pytest.fixture
def put(publisher: Publisher, stored: str) -> Iterator[Callable[[bytes], None]]:
    """Puts another content where the model lies, until the test ends. By rename, as any publisher would."""
    place = publisher.repository / stored

    def replace(data: bytes) -> None:
        (place.parent / "new").write_bytes(data)
        os.utime(place.parent / "new", (len(data), hash(data) % 10**9))  # nginx makes the ETag of time and size
        (place.parent / "new").rename(place)

    yield replace
    replace(MODEL)


def fetch(line: Line, trusted: Trusted, inbox: Path, **more) -> bytes:
    return download(reach(line.url, **more), trusted, TARGET, inbox, Disk()).read_bytes()


def head_bytes(line: Line, trusted: Trusted, inbox: Path) -> int:
    """How long the head of nginx's answer is."""
    assert fetch(line, trusted, inbox) == MODEL
    return line.passed.pop().head_bytes


def test_a_cut_anywhere_is_gone_on_from_and_nothing_comes_twice(line, trusted, inbox, server, stored):
    head = head_bytes(line, trusted, inbox / "whole")
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    last = head + len(MODEL) - 1
    edges = [0, 1, head // 2, head - 3, head - 2, head - 1, head, head + 1, head + 2, last - 1, last]
    for cut in edges + [chance.randrange(last) for _ in range(20)]:
        line.passed.clear()
        line.faults = [Fault(cut=cut)]
        assert fetch(line, trusted, inbox / str(cut)) == MODEL, cut
        first, second = line.passed
        kept = max(0, cut - head)
        assert (first.range, second.range) == ("", f"bytes={kept}-" if kept else ""), cut
        assert (first.body_bytes, second.body_bytes) == (kept, len(MODEL) - kept), cut
        assert second.if_range.startswith('"') == (kept > 0), cut
    assert {each.status for each in server.asked() if each.if_range} == {206}


def wrong_metadata(line: Line, publisher: Publisher) -> Iterator[int]:
    """Where a cut in the timestamp, whose length nobody knows before, lets something else pass for the whole."""
    where, whole = reach(line.url), (publisher.repository / "metadata" / "timestamp.json").read_bytes()
    assert where.read("metadata/timestamp.json", 10_000) == whole
    head = line.passed.pop().head_bytes
    for cut in [*range(0, head, 4), *range(head - 3, head + 3), head + len(whole) - 1]:
        line.faults = [Fault(cut=cut)]
        if where.read("metadata/timestamp.json", 10_000) != whole:
            yield cut


def test_a_cut_in_metadata_never_passes_for_the_whole(line, publisher):
    assert list(wrong_metadata(line, publisher)) == []


def test_mutant_with_the_librarys_own_answer_a_head_that_is_cut_off_passes_for_an_empty_file(
    line, publisher, monkeypatch
):
    monkeypatch.setattr(connections._Http, "response_class", http.client.HTTPResponse)
    assert next(wrong_metadata(line, publisher)) > 0


def test_three_cuts_in_one_download(line, trusted, inbox):
    line.faults = [Fault(cut=90_000), Fault(cut=0), Fault(cut=90_000), Fault(cut=5)]
    assert fetch(line, trusted, inbox) == MODEL
    assert line.body_bytes == len(MODEL)


@pytest.mark.parametrize("cut", [0, 1, 400, 100_000, 250_000])
def test_a_line_that_is_reset_loses_only_what_was_on_its_way(line, trusted, inbox, cut):
    line.faults = [Fault(cut=cut, reset=True)]
    assert fetch(line, trusted, inbox) == MODEL
    assert len(line.passed) == 2
    begun = int(line.passed[1].range.removeprefix("bytes=").rstrip("-") or 0)
    assert begun <= line.passed[0].body_bytes
    assert line.passed[1].body_bytes == len(MODEL) - begun


def test_the_next_command_goes_on_from_what_the_last_one_left(line, trusted, inbox):
    line.faults = [Fault(cut=100_000)]
    with pytest.raises(TransportFailed, match="did not arrive"):
        fetch(line, trusted, inbox, retries=0)
    part, tag = (inbox / f"model.onnx{suffix}" for suffix in (downloading.PART_SUFFIX, downloading.TAG_SUFFIX))
    assert part.read_bytes() == MODEL[: part.stat().st_size]
    assert fetch(line, trusted, inbox, retries=0) == MODEL
    assert line.passed[1].if_range.startswith('"')
    assert line.body_bytes == len(MODEL)
    assert not part.exists() and not tag.exists()


def changed_meanwhile(line: Line, trusted: Trusted, inbox: Path, put: Callable[[bytes], None]) -> list[str]:
    """A wrong file is cut off, the publisher mends it, the next command goes on. Which ranges were asked for."""
    put(b"w" * len(MODEL))
    line.faults = [Fault(cut=100_000)]
    with pytest.raises(TransportFailed):
        fetch(line, trusted, inbox, retries=0)
    put(MODEL)
    assert fetch(line, trusted, inbox) == MODEL
    return [each.range for each in line.passed[1:]]


def test_a_file_that_changed_meanwhile_comes_whole_and_once(line, trusted, inbox, put):
    (resumed,) = changed_meanwhile(line, trusted, inbox, put)
    assert resumed.startswith("bytes=")
    assert line.passed[1].body_bytes == len(MODEL)


def test_mutant_without_if_range_two_files_are_mixed_and_the_hash_catches_it(line, trusted, inbox, put, monkeypatch):
    monkeypatch.setattr(web, "strong", lambda tag: "")
    resumed, again = changed_meanwhile(line, trusted, inbox, put)
    assert resumed.startswith("bytes=") and again == ""  # a mix came first, and the whole had to come after it
    assert line.passed[1].body_bytes < len(MODEL) == line.passed[2].body_bytes


def test_a_file_that_changes_within_one_download(line, trusted, inbox, put):
    put(b"w" * len(MODEL))
    mend = lambda request: (put(MODEL), request)[1]  # noqa: E731  in place, where it is used
    line.faults = [Fault(cut=100_000), Fault(request=mend)]
    assert fetch(line, trusted, inbox) == MODEL
    assert [each.body_bytes for each in line.passed[1:]] == [len(MODEL)]


def test_a_server_that_ignores_ranges_sends_it_whole(line, trusted, inbox):
    line.faults = [Fault(cut=100_000), Fault(request=without("Range"))]
    assert fetch(line, trusted, inbox) == MODEL
    assert line.passed[1].body_bytes == len(MODEL)


def test_a_server_that_ignores_ranges_and_always_breaks_off_is_given_up(line, trusted, inbox):
    line.always = Fault(cut=100_000, request=without("Range"))
    with pytest.raises(TransportFailed, match="6 failures in a row"):
        fetch(line, trusted, inbox)
    assert len(line.passed) == 6


@pytest.mark.attack
@pytest.mark.parametrize("length", ["300100", "1", "100000", "0", "abc", "-5", "99999999999999999999", "300000, 1"])
def test_a_server_that_lies_about_the_length(line, trusted, inbox, length):
    line.faults = [Fault(head=with_header("Content-Length", length))]
    assert fetch(line, trusted, inbox) == MODEL


@pytest.mark.attack
def test_a_server_that_goes_on_lying_about_the_length_is_given_up(line, trusted, inbox):
    line.always = Fault(head=with_header("Content-Length", "0"))
    with pytest.raises(TransportFailed, match="did not arrive"):
        fetch(line, trusted, inbox)
    assert len(line.passed) == 6


def test_an_answer_without_a_length_that_is_cut_is_seen_as_cut(line, trusted, inbox):
    line.faults = [Fault(cut=100_000, head=without("Content-Length"))]
    assert fetch(line, trusted, inbox) == MODEL
    assert line.body_bytes == len(MODEL)


@pytest.mark.parametrize("at", [0, 1, 100, 1000, 250_000])
def test_a_line_that_stalls_is_left_and_taken_up_again(line, trusted, inbox, at):
    line.faults = [Fault(stall=at)]
    assert fetch(line, trusted, inbox, timeout_s=QUICK_S) == MODEL
    assert line.body_bytes == len(MODEL)


def test_a_line_that_always_stalls_is_given_up_in_time(line, trusted, inbox):
    line.always = Fault(stall=100)
    began = time.monotonic()
    with pytest.raises(TransportFailed, match="3 failures in a row"):
        fetch(line, trusted, inbox, timeout_s=QUICK_S, retries=2)
    assert time.monotonic() - began < 15


@pytest.mark.attack
def test_a_body_that_drips_comes_to_an_end(line, trusted, inbox):
    head = head_bytes(line, trusted, inbox / "whole")
    line.faults = [Fault(drip=head + len(MODEL) - 150)]
    with pytest.raises(TransportFailed, match=r"only \d+ bytes in .*min_bytes_s is 1024"):
        # The fast part comes in the first window; what counts is the next, so there is one more for it.
        fetch(line, trusted, inbox, timeout_s=QUICK_S, retries=0)
    assert line.body_bytes < len(MODEL)
    line.faults = []
    assert fetch(line, trusted, inbox) == MODEL


def test_mutant_without_a_least_rate_a_drip_goes_on_to_its_end(line, trusted, inbox):
    head = head_bytes(line, trusted, inbox / "whole")
    line.faults = [Fault(drip=head + len(MODEL) - 150)]
    assert fetch(line, trusted, inbox, timeout_s=QUICK_S, retries=0, min_bytes_s=0) == MODEL
    assert len(line.passed) == 1


@pytest.mark.attack
def test_a_head_that_drips_comes_to_an_end(line, trusted, inbox):
    line.always = Fault(drip=0)
    began = time.monotonic()
    with pytest.raises(TransportFailed, match=r"no whole answer in time.* 2 failures"):
        fetch(line, trusted, inbox, timeout_s=QUICK_S, retries=1)
    assert time.monotonic() - began < 5.5  # the two heads would take twice three seconds


def test_mutant_with_timeouts_alone_a_dripping_head_goes_on_to_its_end(line, trusted, inbox, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_WAITS", 1000)
    line.faults = [Fault(answer=status(503, Padding="x" * 100), drip=0)]
    began = time.monotonic()
    assert fetch(line, trusted, inbox, timeout_s=QUICK_S) == MODEL
    assert time.monotonic() - began > 3 * QUICK_S


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.attack
def test_the_length_of_a_chunk_that_drips_comes_to_an_end(line, trusted, inbox):
    """No byte of the body comes, so no rate is measured; and no wait for the next byte is long."""
    line.faults = [Fault(answer=CHUNKED + b"0" * 1000 + b"\r\n", drip=len(CHUNKED))]
    began = time.monotonic()
    assert fetch(line, trusted, inbox, timeout_s=QUICK_S) == MODEL
    assert time.monotonic() - began < 8  # the line of 1,000 bytes would take ten


def test_mutant_without_the_watch_the_length_of_a_chunk_drips_on(line, trusted, inbox, monkeypatch):
    monkeypatch.setattr(connections.Watch, "_ring", lambda self: None)
    line.faults = [Fault(answer=CHUNKED + b"0" * 150 + b"\r\n", drip=len(CHUNKED))]
    began = time.monotonic()
    assert fetch(line, trusted, inbox, timeout_s=QUICK_S) == MODEL
    assert time.monotonic() - began > 4 * QUICK_S


HEADS = [
    b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "a"\r\n\r\nabcde',
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4/5\r\nContent-Length: 5\r\n\r\nabcde",
    b"HTTP/1.1 429 Later\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\nDate: Sun, 06 Nov 1994 08:49:30 GMT\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nabcde\r\n0\r\n\r\n",
]


@pytest.mark.attack
def test_whatever_a_server_answers_ends_in_an_error_of_ours(line, trusted, inbox):
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(400):
        answer = bytearray(chance.choice(HEADS))
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(answer))
            answer[at : at + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 2))
        line.always = Fault(answer=bytes(answer))
        try:
            reach(line.url, timeout_s=QUICK_S, retries=1).read("metadata/timestamp.json", 1000)
        except (TransportFailed, UntrustedRelease) as error:
            assert error.what, bytes(answer)
        except Exception as error:
            raise AssertionError(bytes(answer)) from error


@pytest.mark.attack
@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:x/",
        f"http://{'a' * 70}.invalid/",
        "http://a..invalid/",
        "http://[::1/",
        "/%zz",
        "/\xe9 x",
        "?",
        "http:",
    ],
)
def test_a_redirect_that_makes_no_sense_ends_in_an_error_of_ours(line, trusted, inbox, location):
    line.always = Fault(answer=status(302, Location=location))
    with pytest.raises(TransportFailed):
        fetch(line, trusted, inbox, retries=0)


@pytest.mark.attack
def test_a_circle_of_redirects_ends(line, trusted, inbox, stored):
    line.always = Fault(answer=status(302, Location=f"/{stored}"))
    with pytest.raises(TransportFailed, match="redirects too often"):
        fetch(line, trusted, inbox)
    assert len(line.passed) == web.MOST_REDIRECTS + 1


def test_what_is_not_there_is_asked_for_once(line, trusted, inbox, server, stored, publisher):
    (publisher.repository / stored).rename(publisher.folder / "aside")
    try:
        with pytest.raises(NotFound):
            fetch(line, trusted, inbox)
    finally:
        (publisher.folder / "aside").rename(publisher.repository / stored)
    assert len(line.passed) == 1
    assert not (inbox / "model.onnx.part").exists()


@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_is_heeded_also_in_the_middle_of_a_file(line, trusted, inbox, code):
    waits = Waits()
    line.faults = [Fault(cut=100_000), Fault(answer=status(code, Retry_After="7"))]
    assert fetch(line, trusted, inbox, waits=waits) == MODEL
    assert waits == [0.75, 7 * 1.125]
    assert line.body_bytes == len(MODEL)


def test_mutant_without_retry_after_the_server_is_asked_too_soon(line, trusted, inbox, monkeypatch):
    monkeypatch.setattr(web, "retry_after_s", lambda headers: None)
    waits = Waits()
    line.faults = [Fault(answer=status(429, Retry_After="7"))]
    assert fetch(line, trusted, inbox, waits=waits) == MODEL
    assert max(waits) < 7


def test_a_server_that_is_always_busy_is_given_up(line, trusted, inbox):
    line.always = Fault(answer=status(503))
    with pytest.raises(TransportFailed, match=r"HTTP 503, 6 failures in a row.*at most 5"):
        fetch(line, trusted, inbox)
    assert len(line.passed) == 6


def test_mutant_without_a_bound_on_tries_a_busy_server_is_asked_on_and_on(line, trusted, inbox):
    line.faults = [Fault(answer=status(503)) for _ in range(60)]
    assert fetch(line, trusted, inbox, retries=10**9) == MODEL
    assert len(line.passed) == 61


@pytest.mark.attack
def test_one_flipped_bit_on_the_way_is_refused_and_leaves_nothing(line, trusted, inbox, put):
    changed = bytearray(MODEL)
    changed[123_456] ^= 4
    put(bytes(changed))
    with pytest.raises(UntrustedRelease, match="is not what was signed"):
        fetch(line, trusted, inbox)
    assert list(inbox.iterdir()) == []
    assert len(line.passed) == 1
