"""Where a device's models and their updates lie. Light: a rollback must not wait for what an install imports."""

from __future__ import annotations

from pathlib import Path

from surefoot.config import Config
from surefoot.durable import Disk
from surefoot.slots.store import Store


def open_store(config: Config, name: str, disk: Disk | None = None) -> Store:
    """The slot store of one model, bounded as the configuration says."""
    trial = config.trial
    return Store(
        config.models_dir,
        name,
        disk=disk or Disk(),
        storage=config.storage,
        tries=trial.tries,
        retries=trial.retries,
    )


def waiting_path(config: Config, name: str) -> Path:
    """What is remembered of fetches that failed. No model's inbox has such a name."""
    return config.inbox_dir / f"{name}.waiting"
