"""What the whole app must keep to: layers, Python 3.10, one durable writer. Each check is shown to be able to fail."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "app" / "src"
BIN = Path(sys.executable).parent


def vermin(*paths: Path) -> int:
    command = [str(BIN / "vermin"), "--no-tips", "--no-parse-comments", "--eval-annotations", "--violations"]
    return subprocess.run([*command, "--target=3.10-", *map(str, paths)], check=False, capture_output=True).returncode


def test_the_app_uses_nothing_newer_than_python_3_10():
    assert vermin(SOURCE) == 0


@pytest.mark.parametrize(
    "newer",
    [
        "import tomllib\n",
        "from typing import Self\n",
        "import datetime\nprint(datetime.UTC)\n",
        "try:\n    pass\nexcept* ValueError:\n    pass\n",
        "import itertools\nprint(itertools.batched([1], 1))\n",
        "type Name = str\n",
    ],
)
def test_the_check_for_python_3_10_refuses_newer_syntax_and_library_calls(tmp_path, newer):
    (tmp_path / "newer.py").write_text(newer)
    assert vermin(tmp_path / "newer.py") != 0


def test_a_layer_that_imports_from_above_is_refused(tmp_path):
    shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [str(BIN / "lint-imports"), "--no-cache"]
    environment = {"PYTHONPATH": str(tmp_path / "src"), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}

    def status() -> int:
        done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True)
        return done.returncode

    assert status() == 0
    with (tmp_path / "src" / "surefoot" / "errors.py").open("a") as stream:
        stream.write("\nimport surefoot.cli  # from above\n")
    assert status() != 0


WRITES = re.compile(
    r"\.write_text\(|\.write_bytes\(|os\.(rename|replace|unlink|remove|truncate)\("
    r"|open\([^)]*[\"'][wax]|os\.O_(WRONLY|RDWR|CREAT)"
)


def writers(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.py") if WRITES.search(path.read_text())}


# Beside state: the server's own log, who holds a lock, which is information only, and what the kernel is told in /proc.
NOT_STATE = {"durable.py", "serving/detach.py", "serving/shadow.py", "serving/standby.py", "slots/operation.py"}


def test_only_the_durable_writer_writes():
    assert writers(SOURCE / "surefoot") == NOT_STATE


@pytest.mark.parametrize("line", ['path.write_text("x")', 'os.rename("a", "b")', 'open("a", "w")', 'path.open("ab")'])
def test_another_writer_would_be_found(tmp_path, line):
    (tmp_path / "sly.py").write_text(line)
    assert writers(tmp_path) == {"sly.py"}
