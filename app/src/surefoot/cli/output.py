"""How every command prints: a person's text, or one JSON object with ``--json``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from surefoot.config import Config, load

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Adds ``--json``, passed to the command as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def emit(as_json: bool, value: Any, text: Callable[[], str]) -> None:
    """Print ``value`` as JSON, or what ``text`` makes for people."""
    click.echo(msgspec.json.encode(value).decode() if as_json else text())


def device_config(context: click.Context) -> Config:
    """The device's configuration, as ``surefoot --config`` names it."""
    return load(context.find_root().obj)
