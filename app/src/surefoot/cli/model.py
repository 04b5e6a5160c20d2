"""``surefoot model``: the model's journey on this device, one command a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from surefoot.cli.output import device_config, emit, json_option

# Everything of ours is imported inside the commands: `status` must answer before numpy could even load.


@click.group()
def model() -> None:
    """Install, activate, confirm and roll back models on this device."""


def _tell(as_json: bool) -> Any:
    return (lambda _: None) if as_json else (lambda line: click.echo(f"  {line}", err=True))


repository_options = [
    click.option("--version", required=True, help="MAJOR.MINOR.PATCH, or latest."),
    click.option("--repository", required=True, help="A folder, file://, http:// or https://."),
    click.option(
        "--root",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The first trusted root.json; needed once on a device that has none.",
    ),
]


def _with_repository(command: Any) -> Any:
    for option in reversed(repository_options):
        command = option(command)
    return command


@model.command()
@click.argument("name")
@_with_repository
@json_option
@click.pass_context
def plan(context: click.Context, name: str, version: str, repository: str, root: Path | None, as_json: bool) -> None:
    """Say what an install would do. No slot changes."""
    from surefoot import update

    made = update.plan(device_config(context), name, version, repository, root)
    emit(
        as_json,
        made,
        lambda: (
            f"{made.name} {made.version} ({made.digest[:12]}), variant {made.variant}: "
            + (", ".join(made.steps) or "already in a slot, nothing to do")
        ),
    )


@model.command()
@click.argument("name")
@_with_repository
@json_option
@click.pass_context
def install(context: click.Context, name: str, version: str, repository: str, root: Path | None, as_json: bool) -> None:
    """Fetch a release, verify it, fill the inactive slot and make it pass its gate. Traffic does not move."""
    from surefoot import update

    done = update.install(device_config(context), name, version, repository, root, _tell(as_json))
    word = "installed" if done.changed else "already installed"
    emit(as_json, done, lambda: f"{done.name} {done.version} {word} in slot {done.slot} (variant {done.variant})")


@model.command()
@click.argument("name")
@click.option("--version", help="Which release; without it, the one in the inactive slot.")
@json_option
@click.pass_context
def activate(context: click.Context, name: str, version: str | None, as_json: bool) -> None:
    """Let an installed release serve: on trial, or at once if this device confirmed it before."""
    from surefoot import update

    done = update.activate(device_config(context), name, version)
    emit(as_json, done, lambda: _switched(done))


@model.command()
@click.argument("name")
@click.option(
    "--wait", "wait_s", type=click.FloatRange(min=0), default=0.0, help="Wait so many seconds for the evidence."
)
@json_option
@click.pass_context
def confirm(context: click.Context, name: str, wait_s: float, as_json: bool) -> None:
    """End a trial well: from now on a rollback returns to this release."""
    from surefoot import update

    done = update.confirm(device_config(context), name, wait_s)
    emit(as_json, done, lambda: _switched(done))


@model.command()
@click.argument("name")
@click.option(
    "--steps", type=click.IntRange(min=1), default=1, show_default=True, help="How many confirmed releases back."
)
@click.option("--reason", default="", help="Kept in the history.")
@json_option
@click.pass_context
def rollback(context: click.Context, name: str, steps: int, reason: str, as_json: bool) -> None:
    """Return to what was confirmed before. Pulled updates then wait until the next activate."""
    from surefoot import update

    done = update.rollback(device_config(context), name, steps, reason)
    emit(as_json, done, lambda: _switched(done))


@model.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why; kept in the quarantine and the history.")
@json_option
@click.pass_context
def reject(context: click.Context, name: str, reason: str, as_json: bool) -> None:
    """Quarantine the active release on this device and return to the one before it."""
    from surefoot import update

    done = update.reject(device_config(context), name, reason)
    emit(as_json, done, lambda: _switched(done))


@model.command("lift-quarantine")
@click.argument("name")
@click.argument("digest")
@json_option
@click.pass_context
def lift_quarantine(context: click.Context, name: str, digest: str, as_json: bool) -> None:
    """Let a quarantined release be tried again. DIGEST may be its first characters."""
    _store(context, name).lift_quarantine(digest)
    emit(as_json, {"changed": True, "name": name, "digest": digest}, lambda: f"{name}: {digest} may be tried again")


@model.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Needed, since nothing of the model is left on the device.")
@json_option
@click.pass_context
def remove(context: click.Context, name: str, yes: bool, as_json: bool) -> None:
    """Take a model off the device: slots, archive and history, version floor and quarantine with them."""
    from surefoot import update
    from surefoot.errors import BadRequest

    if not yes:
        raise BadRequest(f"removing {name} also removes what a rollback returns to", hint="say --yes")
    changed = update.remove(device_config(context), name)
    emit(as_json, {"changed": changed, "name": name}, lambda: f"{name} {'removed' if changed else 'was not there'}")


@model.command()
@click.argument("name", required=False)
@json_option
@click.pass_context
def status(context: click.Context, name: str | None, as_json: bool) -> None:
    """Show the slots of one model, or of all."""
    from surefoot.slots.status import report
    from surefoot.slots.store import Store

    config = device_config(context)
    names = [name] if name else Store.names(config.models_dir)
    reports = [_waiting(config, report(_store(context, each))) for each in names]
    if name:
        emit(as_json, reports[0], lambda: _status_text(reports[0]))
    else:
        emit(
            as_json, {"models": reports}, lambda: "\n\n".join(map(_status_text, reports)) or "no models on this device"
        )


@model.command()
@click.argument("name")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="The latest so many events."
)
@json_option
@click.pass_context
def history(context: click.Context, name: str, limit: int, as_json: bool) -> None:
    """Show what happened to a model, when and why."""
    store = _store(context, name)
    events = store.history(limit)
    emit(
        as_json,
        {"name": name, "events": events},
        lambda: (
            "\n".join(
                f"{event.time}  {event.what:<10} {event.slot or '-'}  {event.version or '-':<10} {event.reason}"
                for event in events
            )
            or "nothing has happened yet"
        ),
    )


@model.command()
@click.argument("name", required=False)
@click.option(
    "--golden",
    "with_golden",
    is_flag=True,
    help="Also load the active release in a worker of its own and run its golden cases. Writes nothing.",
)
@json_option
@click.pass_context
def verify(context: click.Context, name: str | None, with_golden: bool, as_json: bool) -> int:
    """Read every byte of the slots and the archive of one model again, or of all.

    Exit status 4 where one is not what it was. With --golden also where this app cannot serve what the device holds,
    which a new app is asked beside the one that serves.
    """
    from surefoot.slots.store import Store

    names = [name] if name else Store.names(device_config(context).models_dir)
    found = [_verified(context, each, with_golden) for each in names]
    good = all(each["ok"] for each in found)
    value = found[0] if name else {"ok": good, "models": found}
    emit(as_json, value, lambda: "\n\n".join(map(_verified_text, found)) or "no models on this device")
    return 0 if good else 4


def _verified(context: click.Context, name: str, with_golden: bool) -> dict[str, Any]:
    slots = _store(context, name).verify()
    good = all(health.ok for health in slots)
    if not with_golden:
        return {"name": name, "ok": good, "slots": slots}
    from surefoot.update.verifying import golden

    report = golden(device_config(context), name)
    return {"name": name, "ok": good and report.ok, "slots": slots, "golden": report}


def _verified_text(found: dict[str, Any]) -> str:
    lines = [f"{health.where:<28} {'good' if health.ok else 'BAD: ' + health.problem}" for health in found["slots"]]
    report = found.get("golden")
    if report is not None and report.version is not None:
        said = f"good: {report.agreed} of {report.cases} agree, on {report.runtime} {report.runtime_version}"
        lines.append(f"{'golden cases':<28} {said if report.ok else 'BAD: ' + '; '.join(report.reasons)}")
    elif report is not None and not report.ok:
        lines.append(f"{'to return to':<28} BAD: {'; '.join(report.reasons)}")
    return "\n".join([f"{found['name']}:", *lines] if lines else [f"{found['name']}: nothing to verify"])


def _store(context: click.Context, name: str) -> Any:
    from surefoot.slots.store import Store

    config = device_config(context)
    Store.require(config.models_dir, name)
    trial = config.trial
    return Store(config.models_dir, name, storage=config.storage, tries=trial.tries, retries=trial.retries)


def _waiting(config: Any, found: Any) -> Any:
    """A report with what only the server knows: how long a release that was put off still waits."""
    if found.put_off is None or not found.put_off.again:
        return found
    import msgspec

    from surefoot.errors import SurefootError
    from surefoot.serving.admin import AdminClient

    try:
        models = AdminClient.connect(config).status().models
    except SurefootError:
        return found
    again = next((each.again for each in models if each.name == found.name), None)
    if again is None or again.slot != found.put_off.slot:
        return found
    put_off = msgspec.structs.replace(found.put_off, left_s=again.left_s, why=again.waits_for or found.put_off.why)
    return msgspec.structs.replace(found, put_off=put_off)


def _put_off_text(put_off: Any) -> str:
    said = f"   put off: {put_off.version}, {put_off.times} of {put_off.retries + 1} times"
    if not put_off.again:
        return f"{said}: {put_off.why}; it stays ready until somebody activates it"
    if put_off.left_s is None:
        return f"{said}: tried again once a server has served for long enough"
    if put_off.left_s <= 0:
        return f"{said}: tried again now, or waits: {put_off.why}"
    return f"{said}: tried again in {max(1, round(put_off.left_s / 60))} min of confirmed service"


def _switched(done: Any) -> str:
    if done.slot is None:
        return f"{done.name}: nothing is active"
    where = "serving" if done.serving else "takes effect when the server starts"
    return f"{done.name} {done.version} in slot {done.slot}: {done.status}, {where if done.changed else 'unchanged'}"


def _status_text(found: Any) -> str:
    active = found.active
    lines = [f"{found.name}: " + (f"{active.version} ({active.status}, slot {active.slot})" if active else "not ready")]
    for slot, content in sorted(found.slots.items()):
        mark = "*" if active and active.slot == slot else " "
        digest = (content.digest or "")[:12]
        what = f"{content.version or '-':<10} {digest:<12} {content.variant or ''}"
        lines.append(f" {mark} {slot}  {content.status:<10} {what}")
    if found.trial:
        lines.append(f"   trial: try {found.trial.tries} of {found.trial.allowed}")
    if found.put_off:
        lines.append(_put_off_text(found.put_off))
    lines += [f"   before: {each.version} ({each.where})" for each in found.previous]
    lines += [f"   quarantined: {each.version} {each.digest[:12]}: {each.reason}" for each in found.quarantine]
    if found.held:
        lines.append("   held: pulled updates wait until the next activate")
    if found.problem:
        lines.append(f"   problem: {found.problem}")
    return "\n".join(lines)
