"""``surefoot release``: build, sign, publish, refresh, inspect and verify releases."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from surefoot.cli.keys import Command, now, passphrase, passphrase_option
from surefoot.cli.output import emit, json_option
from surefoot.durable import Disk
from surefoot.release import build as building
from surefoot.release import inspection, manifest, packed, recipe, repository, verification
from surefoot.release.keys import Keyring
from surefoot.runtimes import Options, load_runtime
from surefoot.runtimes.preprocessing import image_to_tensor

Report = Callable[[str, int, int], None]


def signing_options(command: Command) -> Command:
    """Adds ``--keys``, ``--repository`` and ``--passphrase-file``."""
    folder = click.Path(path_type=Path, file_okay=False)
    for option in (
        passphrase_option,
        click.option("--repository", "repository_dir", type=folder, required=True, help="The repository's folder."),
        click.option("--keys", "keys_dir", type=folder, required=True, help="The folder that `keys init` made."),
    ):
        command = option(command)
    return command


release_argument = click.argument(
    "release_dir", metavar="RELEASE_DIR", type=click.Path(path_type=Path, file_okay=False, exists=True)
)


@click.group()
def release() -> None:
    """Build, sign, publish and check releases.

    \b
    surefoot keys init keys
    surefoot release build recipe.toml --out release
    surefoot release sign release --keys keys --repository repository
    surefoot release publish release --keys keys --repository repository
    surefoot release refresh --keys keys --repository repository     (cron, daily)
    """


@release.command()
@click.argument("recipe_file", metavar="RECIPE", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The release's folder.")
@json_option
def build(recipe_file: Path, out: Path, as_json: bool) -> None:
    """Make a release from RECIPE: copy the artifacts, make the golden cases, hash it all, write the manifest.

    RECIPE is TOML or JSON; its paths are relative to its own folder. The format is in docs/reference/release.md.
    With SOURCE_DATE_EPOCH set, the same recipe and files give the same digest.
    """
    made = recipe.load(recipe_file)
    base = recipe_file.parent
    created = building.creation_time(os.environ, now())
    with progress() as report:
        built = building.build(made, base, out, reference(made, base), created=created, disk=Disk(), progress=report)
    whole = built.manifest
    value = {
        "name": whole.name,
        "version": whole.version,
        "digest": built.digest,
        "directory": str(built.directory),
        "variants": [variant.id for variant in whole.variants],
        "golden_cases": whole.golden.cases,
        "size_bytes": sum(file.length_bytes for file in whole.files()),
    }
    emit(as_json, value, lambda: f"built {inspection.describe(whole, built.digest)}\nin {built.directory}")


@release.command()
@release_argument
@signing_options
@json_option
def sign(release_dir: Path, keys_dir: Path, repository_dir: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Sign the release in RELEASE_DIR, on top of what the repository holds. Needs the targets key; may be offline.

    The signed metadata is written to RELEASE_DIR/signed. A version that is published with another content is refused.
    """
    whole = packed.read(release_dir)
    ring = Keyring(keys_dir, passphrase(passphrase_file))
    done = repository.sign(whole, ring, repository_dir, now=now(), disk=Disk())
    value = {
        "name": whole.manifest.name,
        "version": whole.manifest.version,
        "digest": whole.digest,
        "signed": str(done.file),
        "targets_version": done.targets_version,
        "renewed": done.renewed,
    }
    emit(
        as_json,
        value,
        lambda: f"signed {whole.manifest.name} {whole.manifest.version} ({whole.digest[:12]}): {done.file}",
    )


@release.command()
@release_argument
@signing_options
@json_option
def publish(
    release_dir: Path, keys_dir: Path, repository_dir: Path, passphrase_file: Path | None, as_json: bool
) -> None:
    """Put the signed release into the repository, which is made the first time. Needs snapshot and timestamp keys.

    Readers see the state before or the state after, whenever they read. Again with the same release changes nothing.
    """
    whole = packed.read(release_dir)
    ring = Keyring(keys_dir, passphrase(passphrase_file))
    with progress() as report:
        done = repository.publish(whole, ring, repository_dir, now=now(), disk=Disk(), progress=report)
    word = "published" if done.changed else "already published:"
    release_facts = {"name": whole.manifest.name, "version": whole.manifest.version, "digest": whole.digest}
    emit(
        as_json,
        {**release_facts, **msgspec.to_builtins(done)},
        lambda: f"{word} {whole.manifest.name} {whole.manifest.version} ({whole.digest[:12]})\n{_validity(done)}",
    )


@release.command()
@signing_options
@json_option
def refresh(keys_dir: Path, repository_dir: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Sign a new timestamp, so that devices go on believing the repository. Run it from cron or CI, daily.

    Needs snapshot.pem, timestamp.pem and the *.root.json. Also signs the snapshot when its end is near, and puts new
    roots of `keys renew` into the repository.
    """
    ring = Keyring(keys_dir, passphrase(passphrase_file))
    done = repository.refresh(ring, repository_dir, now=now(), disk=Disk())
    emit(as_json, done, lambda: f"refreshed to timestamp {done.timestamp}\n{_validity(done)}")


@release.command()
@click.argument(
    "folder", metavar="RELEASE_DIR|REPOSITORY", type=click.Path(path_type=Path, file_okay=False, exists=True)
)
@click.option("--name", help="Of a repository: only this model.")
@click.option("--version", help="Of a repository: this version, whole.")
@json_option
def inspect(folder: Path, name: str | None, version: str | None, as_json: bool) -> None:
    """Show a built release, or what a repository holds. Nothing is verified: see `release verify`."""
    found = inspection.inspect(folder, name, version)
    emit(as_json, found, lambda: inspection.table(found))


@release.command()
@click.argument("repository_dir", metavar="REPOSITORY", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--root",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The root that devices pinned. Default: the repository's own 1.root.json, which proves no publisher.",
)
@json_option
def verify(repository_dir: Path, root: Path | None, as_json: bool) -> None:
    """Check everything in REPOSITORY: as the most distrustful device would, and then every file that lies there.

    Every signature of every version, every hash, every manifest and golden file, and no file that is not named.
    Exit status 3 if anything is wrong.
    """
    with progress() as report:
        found = verification.verify(repository_dir, root, now=now(), progress=report)
    found.raise_if_bad()
    emit(as_json, found, lambda: f"{repository_dir} is whole: {found.files} files, {found.releases} releases checked")


@release.command()
def schema() -> None:
    """Print the JSON schema of the manifest, made from its types."""
    click.echo(manifest.schema_text(), nl=False)


def reference(made: recipe.Recipe, base: Path) -> building.Reference:
    """The recipe's reference model as a function: encoded image to the values of each output."""
    section = made.reference
    runtime = load_runtime(section.runtime)
    signature = runtime.load((base / section.artifact).resolve(), Options(threads=1))

    def run(image: bytes) -> dict[str, list[float]]:
        tensor = image_to_tensor(image, section.preprocessing)
        outputs = runtime.infer({signature.inputs[0].name: tensor})
        kind = section.output_kind
        return {name: _flat(_softmax(array) if kind == "logits" else array) for name, array in outputs.items()}

    return run


def _softmax(logits: Any) -> Any:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    return powers / powers.sum(axis=-1, keepdims=True)


def _flat(array: Any) -> list[float]:
    values: list[float] = array.astype(np.float64).reshape(-1).tolist()
    return values


@contextmanager
def progress() -> Iterator[Report]:
    """A bar on the terminal's stderr while long work runs; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, of: bar.update(task, description=what, completed=done, total=of)


def _validity(done: repository.Published) -> str:
    lines = [f"devices need no refresh until {done.expires['timestamp']}"]
    lines += [
        f"soon to be signed again with the offline key: {role}, ends {when}" for role, when in done.nearing.items()
    ]
    return "\n".join(lines)
