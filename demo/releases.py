"""A signed repository of the reference model, made by the same commands that an ML engineer types."""

from __future__ import annotations

import secrets
from pathlib import Path

from demo.place import RECIPES, surefoot

PASSPHRASE_FILE = "passphrase"  # noqa: S105  # a file name, no secret
RECIPE_FILES = ("release-v1.toml", "release-v2.toml")


def new_keys(keys: Path) -> str:
    """Make a set of keys, encrypted by a random passphrase kept beside them (a real set's is kept elsewhere).

    Returns:
        The passphrase.
    """
    passphrase = secrets.token_urlsafe(24)
    keys.parent.mkdir(parents=True, exist_ok=True)
    surefoot("keys", "init", str(keys), SUREFOOT_PASSPHRASE=passphrase)
    hidden = keys / PASSPHRASE_FILE
    hidden.touch(0o600)
    hidden.write_text(passphrase)
    return passphrase


def release(recipe: Path, out: Path, keys: Path, repository: Path) -> None:
    """Build, sign and publish one release."""
    passphrase = (keys / PASSPHRASE_FILE).read_text()
    surefoot("release", "build", str(recipe), "--out", str(out))
    for step in ("sign", "publish"):
        surefoot(
            "release",
            step,
            str(out),
            "--keys",
            str(keys),
            "--repository",
            str(repository),
            SUREFOOT_PASSPHRASE=passphrase,
        )


def publish_reference_model(work: Path, repository: Path, recipes: tuple[str, ...] = RECIPE_FILES) -> Path:
    """Publish the reference model's releases.

    Args:
        work: where keys and built releases go.
        repository: the repository's folder.
        recipes: which of ``models/fashion_mnist/release-*.toml``.

    Returns:
        The folder of the keys.
    """
    keys = work / "keys"
    new_keys(keys)
    for name in recipes:
        release(RECIPES / name, work / "built" / Path(name).stem, keys, repository)
    return keys
