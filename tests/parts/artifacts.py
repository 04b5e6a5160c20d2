"""What devices of the tests are given: an image, a bundle, signed releases, each made once by the real commands.

They lie in build/parts/artifacts for whoever asks next: another scenario, another test. On the command line, for
molecule: ``python -m tests.parts.artifacts WHAT...`` makes each and a link to it, build/parts/artifacts/WHAT, where
WHAT is ``repository``, ``repository-patient``, each with ``.tar`` too, ``image-TARGET.docker.tar`` or
``bundle-TARGET.tar.gz``; a target may be followed by ``.VARIANT``. A variant of the app is a double of a later version:
``second`` differs in nothing that matters, ``broken`` passes every check before it serves, and never does, ``dying``
does and ends after some seconds, ``wrong`` sees other pictures than it is shown, which only golden cases find.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from demo import releases
from demo.place import RECIPES
from images import bundle as bundles
from tests.parts import docker
from tests.parts.docker import ROOT
from tests.parts.unpack import unpack

FOLDER = ROOT / "build" / "parts" / "artifacts"
STALE_S = 3600.0  # a test may still be reading what an earlier state of the sources made
APP = ("app", "images", "requirements/device.lock", "LICENSE")
HERE = "tests/parts/artifacts.py"
PREPROCESSING = "surefoot/runtimes/preprocessing.py"
# What a variant adds to files of the app, at the start or (a module's) at the end.
AT_START = {
    "broken": "import sys\nif 'serve' in sys.argv:\n    sys.exit('broken on purpose, by a test')\n",
    "dying": (
        "import os, sys, threading\nif 'serve' in sys.argv:\n"
        "    timer = threading.Timer(8.0, lambda: (print('dies on purpose, by a test', flush=True), os._exit(7)))\n"
        "    timer.daemon = True\n    timer.start()\n"
    ),
}
AT_END = {"wrong": "\n_seen = image_to_tensor\nimage_to_tensor = lambda *given, **more: -_seen(*given, **more)\n"}


def image(target: str = "generic-amd64", variant: str = "") -> Path:
    """An archive as ``make image-…`` writes it."""
    sources = (*APP, HERE) if variant else APP
    made = _once(f"image-{target}", variant, sources, lambda folder: _image(folder, target, variant))
    return next(made.glob("*.tar"))


def bundle(target: str = "linux-amd64", variant: str = "") -> Path:
    """An archive as ``make bundle-…`` writes it."""
    sources = (*APP, HERE) if variant else APP
    made = _once(f"bundle-{target}", variant, sources, lambda folder: _bundle(folder, target, variant))
    return next(made.glob("*.tar.gz"))


def repository(variant: str = "") -> Path:
    """v1 and v2 of the reference model, signed and published today. Its root is metadata/1.root.json.

    Beside it is repository.tar, which travels faster than so many files.

    Args:
        variant: ``patient`` has budgets that an emulated or a busy processor can keep.
    """
    sources = ("app/src", "models/fashion_mnist", "demo/releases.py", HERE)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()  # their metadata expires
    name = f"repository-{variant or 'strict'}"
    return _once(name, today, sources, lambda folder: _publish(folder, variant)) / "repository"


def patient_recipe(source: Path, path: Path) -> Path:
    """Write the recipe of a release with budgets of time that any processor can keep, and all else as in ``source``."""
    recipe = msgspec.toml.decode(source.read_text())
    for section, key in ((recipe["card"], "file"), (recipe["golden"], "folder"), (recipe["reference"], "artifact")):
        section[key] = str(source.parent / section[key])
    for variant in recipe["variants"]:
        variant["artifact"] = str(source.parent / variant["artifact"])
        variant["budget"] |= {"latency_p99_ms": 30_000.0, "load_s": 110.0, "memory_bytes": 3 * 2**27}
    path.write_text(json.dumps(recipe))
    return path


def _once(name: str, variant: str, sources: tuple[str, ...], make: Callable[[Path], None]) -> Path:
    FOLDER.mkdir(parents=True, exist_ok=True)
    stem = "-".join(filter(None, (name, variant)))
    key = digest(sources)
    folder = FOLDER / f"{stem}-{key}"
    with (FOLDER / f"{stem}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not folder.exists():
            for stale in FOLDER.glob(f"{stem}-{'?' * len(key)}"):
                if time.time() - stale.stat().st_mtime > STALE_S:
                    shutil.rmtree(stale)
            with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
                part = Path(scratch) / "part"
                part.mkdir()
                make(part)
                part.rename(folder)
    return folder


def digest(sources: tuple[str, ...]) -> str:
    """What the sources hold now, committed or not."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard", *sources], cwd=ROOT, capture_output=True, check=True
    )
    files = (ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0")[:-1])
    seen = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
        seen.update(f"{path.relative_to(ROOT)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return seen.hexdigest()[:12]


def _run(*command: str | Path, **more: str) -> None:
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **more}, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}\n{done.stderr}"


def _image(folder: Path, target: str, variant: str) -> None:
    engine = docker.start()
    if not variant:
        _run(sys.executable, "-m", "images.build", target, "--into", folder, **engine.environment)
        return
    tag = f"surefoot:{variant}-{os.getpid()}"
    with tempfile.TemporaryDirectory() as scratch:
        context = Path(scratch)
        command = (ROOT / "images" / "app" / "surefoot").read_text()
        shebang, _, rest = command.partition("\n")
        (context / "surefoot").write_text(f"{shebang}\n{AT_START.get(variant, '')}{rest}")
        (context / "preprocessing.py").write_text(
            (ROOT / "app" / "src" / PREPROCESSING).read_text() + AT_END.get(variant, "")
        )
        # The image's bytecode is believed without a look at its source; what is none is passed over.
        (context / "preprocessing.cpython-311.pyc").touch()
        engine.docker("load", "--input", str(image(target)))
        (context / "Dockerfile").write_text(
            f"FROM {image(target).name.removesuffix('.docker.tar').replace('-', ':', 1)}\n"
            f"LABEL variant={variant}\nCOPY preprocessing.py /opt/surefoot/app/{PREPROCESSING}\n"
            f"COPY *.pyc /opt/surefoot/app/{Path(PREPROCESSING).parent}/__pycache__/\n"
            "COPY --chmod=755 surefoot /opt/surefoot/bin/surefoot\n"  # the top layer: a test damages it there
        )
        engine.docker("build", "--quiet", "--pull=false", "--provenance=false", f"--tag={tag}", scratch)
        engine.docker("save", "--output", str(folder / f"surefoot-{variant}-{target}.docker.tar"), tag)
        engine.docker("rmi", tag)


def _bundle(folder: Path, target: str, variant: str) -> None:
    if not variant:
        _run(sys.executable, "-m", "images.bundle", target, "--out", folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        unpack(bundle(target), Path(scratch))
        (unpacked,) = Path(scratch).iterdir()
        _change(unpacked, variant)
        lines = (unpacked / "bundle.conf").read_text().splitlines()
        old = next(line.split("'")[1] for line in lines if line.startswith("bundle_id="))
        new = f"{old.rpartition('-')[0]}-{hashlib.sha256(f'{old} {variant}'.encode()).hexdigest()[:12]}"
        (unpacked / "bundle.conf").write_text("\n".join(lines).replace(old, new) + "\n")
        (unpacked / "SHA256SUMS").unlink()
        (unpacked / "SHA256SUMS").write_text(bundles.sums(unpacked))
        bundles.pack(unpacked, folder / f"surefoot-{variant}-{target}.tar.gz", 0)


def _change(unpacked: Path, variant: str) -> None:
    wheel = next((unpacked / "wheels").glob("surefoot-*.whl"))
    before = hashlib.sha256(wheel.read_bytes()).hexdigest()
    changed = wheel.with_suffix(".part")
    start, end = AT_START.get(variant, "").encode(), AT_END.get(variant, "").encode()
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            data = source.read(member)
            if member.filename == "surefoot/__main__.py":
                data = start + data
            elif member.filename == PREPROCESSING:
                data += end
            target.writestr(member, data)
    changed.replace(wheel)
    lock = unpacked / "requirements.lock"
    lock.write_text(lock.read_text().replace(before, hashlib.sha256(wheel.read_bytes()).hexdigest()))


def _publish(folder: Path, variant: str) -> None:
    if variant:
        keys = folder / "keys"
        releases.new_keys(keys)
        for name in releases.RECIPE_FILES:
            stem = Path(name).stem
            recipe = patient_recipe(RECIPES / name, folder / f"{stem}.json")
            releases.release(recipe, folder / "built" / stem, keys, folder / "repository")
    else:
        releases.publish_reference_model(folder, folder / "repository")
    with tarfile.open(folder / "repository.tar", "w") as tar:
        tar.add(folder / "repository", "repository")


def main(*wanted: str) -> None:
    """Make what is named, and links to it."""
    verbs: dict[str, Callable[..., Path]] = {"image": image, "bundle": bundle, "repository": repository}
    for name in wanted:
        stem = name.removesuffix(".docker.tar").removesuffix(".tar.gz").removesuffix(".tar")
        verb, _, rest = stem.partition("-")
        made = verbs[verb](*filter(None, rest.split(".")))
        if made.is_dir() and name.endswith(".tar"):
            made = made.with_suffix(".tar")
        with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
            link = Path(scratch) / name
            link.symlink_to(os.path.relpath(made, FOLDER))
            link.replace(FOLDER / name)


if __name__ == "__main__":
    main(*sys.argv[1:])
