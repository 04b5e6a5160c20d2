"""Fetching over TLS from Debian's nginx with a private authority's certificate, and through a proxy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from surefoot.errors import BadRequest, DeviceUnable, TransportFailed
from surefoot.release import connections
from surefoot.release.connections import proxy_for
from tests.app.release.reaching import Waits, got, reach
from tests.app.release.webserver import Fault as Answer
from tests.app.release.webserver import WebServer
from tests.parts import nginx
from tests.parts.authority import Authority
from tests.parts.line import Fault, Line, Tunnel

DATA = os.urandom(300_000)
HOST = "127.0.0.1"
NAMED = "repository.test"  # RFC 6761: no resolver knows it, only the proxy here
FUTURE = datetime(2100, 1, 1, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("folder")
    (made / "file.bin").write_bytes(DATA)
    return made


Lead = Callable[..., Line]


@pytest.fixture
def lead(authority: Authority, folder: Path, tmp_path: Path, needs: Callable[[bool, str], None]) -> Iterator[Lead]:
    """Starts nginx with a certificate for a name, and a line to it."""
    needs(nginx.possible(), "nginx, or root on Debian to unpack it")
    opened: list = []

    def start(name: str = HOST, begins: datetime | None = None) -> Line:
        server = nginx.running(folder, tmp_path / f"n{len(opened)}", *authority.certify(name, begins))
        opened.append(server)
        line = Line(server.__enter__().secured, opaque=True)
        opened.append(line)
        return line.__enter__()

    yield start
    for each in reversed(opened):
        each.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def secured(line: Line, host: str = HOST) -> str:
    return f"https://{host}:{line.port}"


def test_a_private_authority_is_believed_where_it_is_configured(lead, authority):
    line = lead()
    assert got(reach(secured(line), ca_file=str(authority.file))) == DATA


@pytest.mark.attack
def test_a_private_authority_is_not_believed_by_itself_and_not_asked_twice(lead):
    line, waits = lead(), Waits()
    with pytest.raises(
        TransportFailed, match=r"certificate of .* is not believed.*unable to get local issuer.*ca_file"
    ):
        got(reach(secured(line), waits=waits))
    assert waits == []
    assert len(line.passed) == 1


@pytest.mark.attack
def test_another_private_authority_is_not_enough(lead, tmp_path):
    with pytest.raises(TransportFailed, match="is not believed"):
        got(reach(secured(lead()), ca_file=str(Authority(tmp_path / "other").file)))


@pytest.mark.attack
def test_a_certificate_for_another_name_is_not_believed(lead, authority):
    with pytest.raises(TransportFailed, match=r"is not believed.*127\.0\.0\.1"):
        got(reach(secured(lead(NAMED)), ca_file=str(authority.file)))


@pytest.mark.attack
def test_a_certificate_of_the_future_is_not_believed_on_a_clock_that_is(lead, authority):
    with pytest.raises(TransportFailed, match=r"is not believed.*not yet valid.*clock"):
        got(reach(secured(lead(begins=FUTURE)), ca_file=str(authority.file)))


def test_a_device_that_starts_in_1970_still_reaches_its_repository(lead, authority, tmp_path):
    """Its clock is not believed, so no date is judged by it; who signed is judged all the same."""
    line = lead(begins=FUTURE)
    assert got(reach(secured(line), ca_file=str(authority.file), check_dates=False)) == DATA
    with pytest.raises(TransportFailed, match="is not believed"):
        got(reach(secured(line), ca_file=str(Authority(tmp_path / "other").file), check_dates=False))


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_certificates_that_cannot_be_read_are_named(lead, tmp_path, content):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DeviceUnable, match=r"cannot read the certificates in .*ca\.pem.*fetch\.ca_file"):
        got(reach(secured(lead()), ca_file=str(file)))


@pytest.mark.parametrize("cut", [0, 1, 5, 1000, 2000, 100_000, 250_000])
@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_under_tls_is_gone_on_from(lead, authority, cut, reset):
    line = lead()
    line.faults = [Fault(cut=cut, reset=reset)]
    assert got(reach(secured(line), ca_file=str(authority.file)), length=len(DATA)) == DATA
    assert len(line.passed) == 2
    lost = 0 if not reset else line.passed[0].body_bytes  # a reset may take all that was on its way
    sent = sum(each.body_bytes for each in line.passed)
    assert sent < len(DATA) + lost + 40_000  # what TLS adds, two handshakes, and what the cut left of a record


def test_a_stall_in_the_handshake_is_left_and_taken_up_again(lead, authority):
    line = lead()
    line.faults = [Fault(stall=100), Fault(drip=100)]
    where = reach(secured(line), timeout_s=0.3, ca_file=str(authority.file))
    assert got(where) == DATA
    assert len(line.passed) == 3


def test_the_configured_proxy_is_asked_for_a_tunnel_and_sees_no_name_resolved_here(lead, authority):
    line = lead(NAMED)
    with Tunnel() as tunnel:
        where = reach(secured(line, NAMED), ca_file=str(authority.file), proxy=f"http://{tunnel.address}")
        assert got(where) == DATA
    assert [asked.rpartition(" ")[0] for asked in tunnel.asked] == [f"CONNECT {NAMED}:{line.port}"]


def test_the_proxy_of_the_environment_is_asked_with_its_password(lead, authority, monkeypatch):
    line = lead()
    with Tunnel("us er:p@ss") as tunnel:
        monkeypatch.setenv("HTTPS_PROXY", f"http://us%20er:p%40ss@{tunnel.address}")
        assert got(reach(secured(line), ca_file=str(authority.file))) == DATA
    assert len(tunnel.asked) == 1


def test_a_cut_through_a_proxy_is_gone_on_from(lead, authority):
    line = lead()
    line.faults = [Fault(cut=100_000)]
    with Tunnel() as tunnel:
        where = reach(secured(line), ca_file=str(authority.file), proxy=f"http://{tunnel.address}")
        assert got(where, length=len(DATA)) == DATA
    assert len(tunnel.asked) == 2


def test_a_proxy_that_refuses_is_told_of_without_the_password(lead, authority, monkeypatch):
    with Tunnel("user:right") as tunnel:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:wr0ng@{tunnel.address}")
        with pytest.raises(TransportFailed, match="407") as caught:
            got(reach(secured(lead()), ca_file=str(authority.file)))
    assert "wr0ng" not in str(caught.value)


def test_no_proxy_goes_past_it(lead, authority, monkeypatch):
    line = lead()
    monkeypatch.setenv("NO_PROXY", f"example.org,{HOST}")
    with Tunnel() as tunnel:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{tunnel.address}")
        assert got(reach(secured(line), ca_file=str(authority.file))) == DATA
        assert got(reach(secured(line), ca_file=str(authority.file), proxy=f"http://{tunnel.address}")) == DATA
    assert tunnel.asked == []


def test_direct_leaves_the_environment_aside(lead, authority, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert got(reach(secured(lead()), ca_file=str(authority.file), proxy="direct")) == DATA


def test_plain_http_through_a_proxy_names_the_whole_address(tmp_path):
    """A proxy that is a web server answers the request itself: what it was asked is seen."""
    with WebServer(tmp_path) as proxy:
        proxy.fail(f"http://{NAMED}/file.bin".lstrip("/"), Answer(body=b"through"))
        assert got(reach(f"http://{NAMED}", proxy=proxy.url)) == b"through"
        assert proxy.requests == [(f"http://{NAMED}/file.bin", None)]


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, "https://a.test/x", ""),
        ({"https_proxy": "http://p:1"}, "https://a.test/x", "http://p:1"),
        ({"HTTPS_PROXY": "p:1"}, "https://a.test/x", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://a.test/x", ""),
        ({"HTTP_PROXY": "http://p:1"}, "http://a.test/x", "http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, "https://a.test/x", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.test"}, "https://a.test/x", ""),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".test"}, "https://a.test:8/x", ""),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, "https://a.test/x", ""),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "b.test"}, "https://a.test/x", "http://p:1"),
    ],
)
def test_what_the_environment_says_of_proxies(monkeypatch, environment, url, proxy):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url, "") == proxy
    assert proxy_for(url, connections.DIRECT) == ""


@pytest.mark.parametrize("proxy", ["socks5://p:1", "ftp://p", "http://"])
def test_what_is_no_http_proxy_is_refused_without_its_password(monkeypatch, proxy):
    monkeypatch.setenv("HTTPS_PROXY", proxy.replace("://p", "://user:s3cret@p"))
    with pytest.raises(BadRequest, match="not a proxy that can be used") as caught:
        proxy_for("https://a.test/x", "")
    assert "s3cret" not in str(caught.value)
