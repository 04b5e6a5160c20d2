"""May this release be installed here? Pure; asked before anything is fetched."""

from __future__ import annotations

from surefoot.errors import DeviceUnable, UntrustedRelease
from surefoot.release.manifest import version_key
from surefoot.slots.state import SLOTS, Slot, State
from surefoot.slots.table import quarantined


def admit(state: State, version: str, digest: str) -> Slot | None:
    """Refuse what must not be installed.

    Returns:
        The slot that says it holds the release already, its gate passed; or ``None``.

    Raises:
        DeviceUnable: a trial runs, or the digest is quarantined.
        UntrustedRelease: older than the floor, or another content under a version that this device knows.
    """
    entry = state.refused(digest)
    if entry is not None:
        raise quarantined(entry)
    for slot in SLOTS:
        now = state.slots[slot]
        if now.release and now.release.digest == digest and now.status in ("ready", "trial", "confirmed"):
            return slot
    if state.trial is not None:
        raise DeviceUnable(
            "cannot install while a trial runs",
            found=f"{state.serving} on trial, {state.trial.tries} of {state.trial.allowed} tries used",
            hint="confirm, reject or roll back the trial first",
        )
    confirmed_here = {ref.digest: ref.version for ref in (*state.known, *state.lineage)}
    here = [now.release for now in state.slots.values() if now.release and now.status in ("trial", "confirmed")]
    for ref_digest, ref_version in [*confirmed_here.items(), *((ref.digest, ref.version) for ref in here)]:
        if ref_version == version and ref_digest != digest:
            raise UntrustedRelease(
                f"version {version} is offered with another content",
                found=f"digest {digest}",
                expected=f"digest {ref_digest}, which this device confirmed",
                hint="a version never changes: publish the new content under a new version",
            )
    if digest in confirmed_here:
        return None
    if state.floor is not None and version_key(version) <= version_key(state.floor):
        raise UntrustedRelease(
            f"version {version} is not newer than what this device confirmed",
            found=version,
            expected=f"newer than {state.floor}",
            hint="to go back to a release confirmed here: surefoot model rollback",
        )
    return None
