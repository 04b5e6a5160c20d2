"""All findings together. Pure."""

from __future__ import annotations

import msgspec

from surefoot.config import Config
from surefoot.watch.doctor import conditions, machine, storage, usable
from surefoot.watch.doctor.facts import Facts, Finding, Status

_WORST_FIRST: tuple[Status, ...] = ("problem", "warning", "not verified", "ok")


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """The device's configuration, or the defaults and why they stand in."""

    config: Config
    path: str = ""
    problem: str = ""  # a file that was there, or was named, and could not be used


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """``status`` is the worst of the findings, ``ok`` that none of them is a problem."""

    ok: bool
    status: Status
    findings: tuple[Finding, ...]
    facts: Facts


def diagnose(facts: Facts, configuration: Configuration) -> Diagnosis:
    """Judge everything."""
    config = configuration.config
    findings = (
        *machine.judge(facts),
        _configuration(configuration),
        *storage.judge(facts, config, configured=bool(configuration.path or configuration.problem)),
        *conditions.judge(facts, config.trust.clock),
        *usable.judge(facts, config.runtimes),
    )
    statuses = {finding.status for finding in findings}
    return Diagnosis(
        ok="problem" not in statuses,
        status=next(status for status in _WORST_FIRST if status in statuses),
        findings=findings,
        facts=facts,
    )


def _configuration(configuration: Configuration) -> Finding:
    if configuration.problem:
        return Finding(
            name="configuration",
            status="problem",
            found=configuration.problem,
            expected="a surefoot.toml that this version reads",
            hint="see surefoot config check; everything else here is judged by the defaults",
        )
    if not configuration.path:
        return Finding(
            name="configuration",
            status="not verified",
            found="none; judged by the defaults",
            hint="on a device, name it with --config or $SUREFOOT_CONFIG",
        )
    return Finding(name="configuration", status="ok", found=configuration.path)
