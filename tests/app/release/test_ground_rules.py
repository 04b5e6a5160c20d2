"""What must stay true of the code itself."""

from __future__ import annotations

from pathlib import Path

import surefoot.release

FOLDER = Path(surefoot.release.__file__).parent


def test_one_module_alone_touches_what_tuf_calls_internal():
    assert [path.name for path in FOLDER.glob("*.py") if "ngclient._internal" in path.read_text()] == ["walk.py"]


def test_the_schema_file_is_what_the_command_prints(capsys):
    from surefoot.cli.main import main

    assert main(["release", "schema"]) == 0
    schema = Path(__file__).resolve().parents[3] / "docs/reference/manifest.schema.json"
    assert capsys.readouterr().out == schema.read_text(), "run: make schema"
