"""``surefoot keys``: make and renew the keys that sign releases."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import click
from tuf.api.metadata import Root

from surefoot.cli.output import emit, json_option
from surefoot.durable import Disk, read_bounded
from surefoot.errors import BadRequest, DeviceUnable
from surefoot.release import keys as signing
from surefoot.release.metadata import Role, parse, text

PASSPHRASE_VARIABLE = "SUREFOOT_PASSPHRASE"  # noqa: S105  the name of a variable, not a secret
MOST_PASSPHRASE_BYTES = 4096
Command = TypeVar("Command", bound=Callable[..., Any])
DEFAULTS = signing.Plan()


def passphrase_option(command: Command) -> Command:
    """Adds ``--passphrase-file``, passed to the command as ``passphrase_file``."""
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help=f"First line is the passphrase of the keys. Default: ${PASSPHRASE_VARIABLE}, else you are asked.",
    )(command)


def passphrase(file: Path | None, *, new: bool = False) -> str:
    """The passphrase of the keys: from the file, the environment, or the terminal.

    Args:
        file: as given by ``--passphrase-file``.
        new: ask twice.

    Raises:
        BadRequest: the file cannot be read, or the passphrase is empty.
    """
    if file is not None:
        try:
            given = read_bounded(file, MOST_PASSPHRASE_BYTES).decode().split("\n")[0].rstrip("\r")
        except (OSError, UnicodeDecodeError, DeviceUnable) as error:
            raise BadRequest(f"cannot read the passphrase from {file}", found=str(error)) from error
    elif PASSPHRASE_VARIABLE in os.environ:
        given = os.environ[PASSPHRASE_VARIABLE]
    else:
        given = str(
            click.prompt("Passphrase of the keys", hide_input=True, confirmation_prompt=new, err=True, default="")
        )
    if not given:
        raise BadRequest(
            "the passphrase is empty", hint=f"set {PASSPHRASE_VARIABLE}, or name a file with --passphrase-file"
        )
    return given


def now() -> datetime:
    """The publisher's clock."""
    return datetime.now(timezone.utc)


@click.group()
def keys() -> None:
    """Make the keys that sign releases.

    The root and targets keys belong offline. A machine that only refreshes needs snapshot.pem, timestamp.pem and the
    *.root.json. Devices get 1.root.json, which holds no secret.
    """


@keys.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--root-keys", type=click.IntRange(1, 16), default=DEFAULTS.root_keys, show_default=True, help="Root keys."
)
@click.option(
    "--root-threshold",
    type=click.IntRange(1, 16),
    default=DEFAULTS.root_threshold,
    show_default=True,
    help="Root keys that must sign a new root.",
)
@click.option(
    "--root-days",
    type=click.IntRange(1, 36500),
    default=DEFAULTS.periods.root,
    show_default=True,
    help="Days until the root must be renewed.",
)
@click.option(
    "--targets-days",
    type=click.IntRange(1, 36500),
    default=DEFAULTS.periods.targets,
    show_default=True,
    help="Days until the list of releases must be signed again.",
)
@click.option(
    "--snapshot-days",
    type=click.IntRange(1, 36500),
    default=DEFAULTS.periods.snapshot,
    show_default=True,
    help="Days that a snapshot is valid; `release refresh` renews it.",
)
@click.option(
    "--timestamp-days",
    type=click.IntRange(1, 36500),
    default=DEFAULTS.periods.timestamp,
    show_default=True,
    help="Days that a device believes to be up to date without a `release refresh`.",
)
@passphrase_option
@json_option
def init(
    directory: Path,
    root_keys: int,
    root_threshold: int,
    root_days: int,
    targets_days: int,
    snapshot_days: int,
    timestamp_days: int,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Make new keys in DIR, encrypted by a passphrase, and the first root.

    DIR must not be there yet, or be empty. Nothing is ever overwritten.
    """
    periods = signing.Periods(root_days, targets_days, snapshot_days, timestamp_days)
    plan = signing.Plan(root_keys, root_threshold, periods)
    secret = passphrase(passphrase_file, new=True)
    root = signing.create(directory, secret, plan, now=now(), disk=Disk()).signed
    _show(as_json, directory, root)


@keys.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--replace",
    type=click.Choice(["root", "targets", "snapshot", "timestamp"]),
    multiple=True,
    help="Give this role new keys. May be given more than once.",
)
@passphrase_option
@json_option
def renew(directory: Path, replace: tuple[Role, ...], passphrase_file: Path | None, as_json: bool) -> None:
    """Write the next root into DIR: a new expiry, and new keys for the roles to --replace.

    Afterwards run `surefoot release refresh`; where the targets key was replaced, first `sign` and `publish` the
    newest release again.
    """
    secret = passphrase(passphrase_file)
    ring = signing.Keyring(directory, secret)
    signing.renew(ring, replace, secret, cost=DEFAULTS.cost, now=now(), disk=Disk())
    _show(as_json, directory, ring.root().signed)


@keys.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False, exists=True))
@json_option
def show(directory: Path, as_json: bool) -> None:
    """Show the newest root in DIR: who signs what, and until when. Needs no passphrase."""
    _show(as_json, directory, parse(signing.Keyring(directory, "").roots()[-1], "root").signed)


def _show(as_json: bool, directory: Path, root: Root) -> None:
    file = directory / f"{root.version}.root.json"
    value = {
        "directory": str(directory),
        "root": str(file),
        "root_version": root.version,
        "expires": text(root.expires),
        "roles": {
            name: {"keyids": list(role.keyids), "threshold": role.threshold}
            for name, role in sorted(root.roles.items())
        },
    }

    def lines() -> str:
        rows = [f"{name:<10} {role.threshold} of {len(role.keyids)} keys" for name, role in sorted(root.roles.items())]
        head = f"root {root.version}, valid until {text(root.expires)}: {file}"
        return "\n".join([head, *rows, "Keep the passphrase and the root keys where no network reaches."])

    emit(as_json, value, lines)
