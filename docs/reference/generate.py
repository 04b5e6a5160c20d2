"""Writes the parts of the reference that the code itself knows: the commands, and the manifest's JSON schema.

``make reference`` runs it; a test fails where what is committed is not what it would write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from surefoot.cli.main import EXIT_CODES, surefoot
from surefoot.release import manifest

FOLDER = Path(__file__).resolve().parent


def commands(command: click.Command, path: tuple[str, ...] = ("surefoot",)) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, with its whole name."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                yield from commands(found, (*path, name))
    else:
        yield " ".join(path), command


def cli_reference() -> str:
    """The text of ``cli.md``."""
    codes = ", ".join(f"{code} `{family.__name__}`" for family, code in EXIT_CODES.items())
    parts = [
        "# Commands",
        "Written by `make reference` from the commands' own help.",
        "`surefoot --config PATH` names the device's `surefoot.toml`; without it `$SUREFOOT_CONFIG`, then "
        "`/data/surefoot/surefoot.toml`.",
        f"Exit status: 0 done, 1 unexpected, {codes}. With `--json` an error is one object on standard output with "
        "`error`, `what`, `found`, `expected` and `hint`.",
    ]
    for name, command in commands(surefoot):
        arguments = [p for p in command.params if isinstance(p, click.Argument)]
        usage = " ".join([name, *(p.make_metavar(click.Context(command)) for p in arguments)])
        parts.append(f"## `{usage}`")
        parts.append(re.sub(r"[ ]*\n[ ]*", "\n", (command.help or "").strip()))
        rows = [_row(p) for p in command.params if isinstance(p, click.Option)]
        parts.append("\n".join(["| option | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _row(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.make_metavar(click.Context(click.Command('')))}"
    notes = []
    if option.required:
        notes.append("Required.")
    if option.show_default and option.default is not None:
        notes.append(f"Default: {option.default}.")
    meaning = " ".join([option.help or "", *notes]).replace("|", "\\|")
    return f"| `{', '.join(option.opts)}{value}` | {meaning} |"


if __name__ == "__main__":
    (FOLDER / "cli.md").write_text(cli_reference())
    (FOLDER / "manifest.schema.json").write_text(manifest.schema_text())
