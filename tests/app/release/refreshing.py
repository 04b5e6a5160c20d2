"""How the tests of trust ask a device to refresh, and check that it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from surefoot.errors import UntrustedRelease
from surefoot.release.source import FileSource
from surefoot.release.trust import Trusted, TrustStore
from tests.app.release.publishing import NAME, Publisher


def refresh(store: TrustStore, publisher: Publisher, folder: Path | None = None, mode: str = "auto") -> Trusted:
    return store.refresh(FileSource(folder or publisher.repository), mode)


def refused(
    store: TrustStore, publisher: Publisher, match: str, folder: Path | None = None, mode: str = "auto"
) -> None:
    """A refresh is refused with a reason of ours, and what was believed before is untouched."""
    before = store.current()
    with pytest.raises(UntrustedRelease, match=match) as caught:
        refresh(store, publisher, folder, mode)
    assert caught.value.hint or caught.value.found
    after = store.current()
    assert (before and before.versions(NAME)) == (after and after.versions(NAME))
