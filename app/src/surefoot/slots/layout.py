"""Where everything of one model lies. Slot paths are stable: accelerator caches are keyed by them."""

from __future__ import annotations

import re
from pathlib import Path

from surefoot.durable import TEMPORARY_PREFIX
from surefoot.errors import BadRequest
from surefoot.slots.state import SLOTS, Slot

NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}\Z")  # manifest.Name: one path component


class Layout:
    """Paths under ``<models_dir>/<name>``.

    ``operation.lock``: one install, restore or recovery at a time. ``state.lock``: held for one transition.
    Order where several are held: operation, state, slot.
    """

    def __init__(self, models_dir: Path, name: str) -> None:
        if not NAME.match(name):
            raise BadRequest("not the name of a model", found=repr(name), expected="a-z, 0-9 and hyphens")
        self.root = models_dir / name
        self.copies = (self.root / "state.0", self.root / "state.1")
        self.state_lock = self.root / "state.lock"
        self.operation_lock = self.root / "operation.lock"
        self.history = self.root / "history.jsonl"
        self.quarantine = self.root / "quarantine"
        self.archive = self.root / "archive"

    def used(self) -> bool:
        """Whether there was ever a model here."""
        traces = (self.history, self.quarantine, self.archive, *self.copies)
        return any(path.exists() for path in traces) or any(
            self.slot(slot).exists() or self.slot_record(slot).exists() for slot in SLOTS
        )

    def slot(self, slot: Slot) -> Path:
        """The slot's directory."""
        return self.root / slot

    def slot_lock(self, slot: Slot) -> Path:
        """A worker holds it shared while it maps the slot; a replacement holds it alone."""
        return self.root / f"{slot}.lock"

    def slot_record(self, slot: Slot) -> Path:
        """What the slot knows of itself, for a rebuild."""
        return self.root / f"{slot}.json"

    def filling(self, slot: Slot) -> Path:
        """Where a release grows until it is whole."""
        return self.root / f"{TEMPORARY_PREFIX}filling-{slot}"
