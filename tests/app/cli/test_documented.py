"""The reference says what the code says, and every link in the documents leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.reference import generate
from surefoot.cli.main import surefoot
from surefoot.release import manifest

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "docs" / "reference"
PATTERNS = ("*.md", "docs/**/*.md", "models/**/*.md", "roles/*/README.md")
DOCUMENTS = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))


def test_the_commands_in_the_reference_are_the_commands_there_are():
    assert (REFERENCE / "cli.md").read_text() == generate.cli_reference(), "run: make reference"


def test_the_schema_in_the_reference_is_the_one_of_the_types():
    assert (REFERENCE / "manifest.schema.json").read_text() == manifest.schema_text(), "run: make reference"


@pytest.mark.parametrize(("name", "command"), list(generate.commands(surefoot)))
def test_each_command_and_each_option_says_what_it_does(name, command):
    assert command.help
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), target


def test_the_architecture_fits_two_pages():
    assert len((ROOT / "ARCHITECTURE.md").read_text().split()) < 1100
