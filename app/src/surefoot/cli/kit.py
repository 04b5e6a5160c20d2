"""``surefoot kit``: seal and check what travels on a USB stick."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from surefoot.cli.keys import now, passphrase, passphrase_option
from surefoot.cli.output import emit, json_option
from surefoot.cli.release import progress
from surefoot.durable import Disk, read_bounded
from surefoot.release import kit as kits
from surefoot.release.keys import Keyring
from surefoot.release.metadata import MOST_BYTES

folder_argument = click.argument("folder", metavar="KIT", type=click.Path(path_type=Path, file_okay=False, exists=True))


@click.group()
def kit() -> None:
    """Seal and check offline kits: an image, Debian packages and releases in one folder for a USB stick."""


@kit.command()
@folder_argument
@click.option(
    "--keys",
    "keys_dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The folder that `keys init` made.",
)
@click.option("--platform", required=True, help="The platform that the kit is for.")
@click.option("--version", required=True, help="The app's version in it.")
@passphrase_option
@json_option
def seal(
    folder: Path, keys_dir: Path, platform: str, version: str, passphrase_file: Path | None, as_json: bool
) -> None:
    """Sign the list of all files in KIT with the targets key, after everything in it was checked.

    `make offline-kit` gathers the folder and runs this. A private key in it, a link, or a repository that is not
    whole is refused.
    """
    ring = Keyring(keys_dir, passphrase(passphrase_file))
    with progress() as report:
        made = kits.seal(folder, ring, platform=platform, version=version, now=now(), disk=Disk(), progress=report)
    emit(as_json, made, lambda: f"sealed {folder}: {len(made.files)} files for {made.platform} {made.version}")


@kit.command()
@folder_argument
@click.option(
    "--root",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="A root of the publisher that you have from elsewhere, never from the kit.",
)
@json_option
def verify(folder: Path, root: Path, as_json: bool) -> None:
    """Check KIT before it is used: its signature, every file, and that nothing is missing or was added.

    Exit status 3 if anything is wrong.
    """
    with progress() as report:
        found = kits.verify(folder, read_bounded(root, MOST_BYTES["root"]), now=now(), progress=report)

    def lines() -> str:
        whole = f"{folder} is whole: {len(found.kit.files)} files, {found.length_bytes / 1e6:.1f} MB, "
        whole += f"for {found.kit.platform} {found.kit.version}, made {found.kit.created}"
        state = "fresh until" if found.fresh else "its repository has EXPIRED: it was fresh until"
        return f"{whole}\n{state} {found.fresh_until}"

    emit(as_json, msgspec.to_builtins(found), lines)
