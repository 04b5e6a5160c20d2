"""``surefoot config``: is a configuration file one that this version reads?"""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from surefoot.cli.output import emit, json_option
from surefoot.config import load


@click.group()
def config() -> None:
    """Check a device's configuration."""


@config.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def check(path: Path, as_json: bool) -> None:
    """Read PATH and show it whole, defaults included. Exit status 2 if it is not valid."""
    loaded = msgspec.to_builtins(load(path), enc_hook=str)
    emit(as_json, loaded, lambda: msgspec.json.format(msgspec.json.encode(loaded)).decode())
