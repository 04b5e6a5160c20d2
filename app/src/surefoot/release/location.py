"""A repository's location, as people write it, to the source that it is read from."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from surefoot.config import Fetch
from surefoot.errors import BadRequest
from surefoot.release.connections import Connections
from surefoot.release.pacing import Timing
from surefoot.release.source import FileSource, Source
from surefoot.release.web import HttpSource


def open_source(location: str, fetch: Fetch, timing: Timing | None = None, *, check_dates: bool = True) -> Source:
    """The source for a plain path, ``file://``, ``http://`` or ``https://``.

    Args:
        location: the repository.
        fetch: how bytes come over the network.
        timing: clock, waiting and chance; ``None``: the machine's.
        check_dates: whether a server's certificate must be valid now. On a clock that is not believed, that cannot
            be said, and would lock the device out; what comes is judged by its signatures in any case.

    Raises:
        BadRequest: something else.
    """
    try:
        parts = urlsplit(location)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme in {"http", "https"} and parts.hostname:
        return HttpSource(location, Connections(fetch, check_dates=check_dates), fetch, timing or Timing())
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        return FileSource(Path(unquote(parts.path)))
    if location and "://" not in location:
        return FileSource(Path(location))
    raise BadRequest(
        "not a place to read a repository from", found=repr(location), expected="a folder, file://, http:// or https://"
    )
