"""``surefoot doctor``: what is wrong with this device, and what to do about it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from surefoot.cli.output import emit, json_option
from surefoot.config import DEFAULT_PATH, ENVIRONMENT_VARIABLE, Config, load
from surefoot.errors import BadRequest

if TYPE_CHECKING:
    from surefoot.watch.doctor.diagnosis import Configuration, Diagnosis

PROBLEM_STATUS = 4  # that of DeviceUnable: the device cannot, and the operator acts


@click.command()
@click.option(
    "--facts",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Judge a recorded board: a folder that stands for /, with its live.json.",
)
@json_option
@click.pass_context
def doctor(context: click.Context, folder: Path | None, as_json: bool) -> int:
    """Look at this machine, prove its runtimes, and say what to do about each problem. Changes nothing.

    Works without a configuration, as any user, in a container without network and with a read-only root.
    Exit status 4 where a finding is a problem; a warning, and what could not be verified, leave it at 0.
    """
    from surefoot.watch.doctor import live, proofs, reading
    from surefoot.watch.doctor.diagnosis import diagnose
    from surefoot.watch.doctor.files import Files

    configuration = _configuration(context.find_root().obj)
    config = configuration.config
    here = live.recorded(folder) if folder else live.ask(config.data_dir, config.run_dir)
    facts = reading.read(Files(folder or Path("/")), here, config.data_dir)
    if folder is None:
        facts = msgspec.structs.replace(facts, proofs=proofs.prove_all())
    seen = diagnose(facts, configuration)
    emit(as_json, seen, lambda: _text(seen))
    return 0 if seen.ok else PROBLEM_STATUS


def _configuration(named: Path | None) -> Configuration:
    """The file that is named, else the one at the default place; a missing default is no fault."""
    from surefoot.watch.doctor.diagnosis import Configuration

    path = named or Path(os.environ.get(ENVIRONMENT_VARIABLE, DEFAULT_PATH))
    try:
        return Configuration(config=load(path), path=str(path))
    except BadRequest as error:
        optional = path == DEFAULT_PATH and isinstance(error.__cause__, FileNotFoundError)
        return Configuration(config=Config(), problem="" if optional else f"{error.what}: {error.found}")


def _text(seen: Diagnosis) -> str:
    width = max(len(finding.name) for finding in seen.findings)
    lines = []
    for finding in seen.findings:
        lines.append(f"{finding.status:<12}  {finding.name:<{width}}  {finding.found}")
        if finding.status == "ok":
            continue
        for label, text in (("expected", finding.expected), ("what to do", finding.hint)):
            if text:
                lines.append(f"{'':12}  {'':{width}}  {label}: {text}")
    counts = dict.fromkeys(("problem", "warning", "not verified", "ok"), 0)
    for finding in seen.findings:
        counts[finding.status] += 1
    lines.append("")
    if seen.facts.recorded:
        lines.append(f"recorded facts from {seen.facts.recorded}, not this machine")
    lines.append(", ".join(f"{count} {status}" for status, count in counts.items()))
    return "\n".join(lines)
