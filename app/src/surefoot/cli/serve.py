"""``surefoot serve``, ``stop`` and ``status``."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from surefoot.cli.output import device_config, emit, json_option

# Everything of ours is imported inside the commands, so that each waits only for what it uses.


@click.command()
@click.option("--detach", is_flag=True, help="Go on in the background; returns when it answers.")
@click.option(
    "--log",
    type=click.Path(path_type=Path, dir_okay=False),
    help="In the foreground: write the log to this file, bounded, instead of standard error.",
)
@json_option
@click.pass_context
def serve(context: click.Context, detach: bool, log: Path | None, as_json: bool) -> int:
    """Serve this device's models until stopped."""
    from surefoot.serving.endpoint import Endpoint

    config = device_config(context)

    def say(where: Endpoint) -> None:
        emit(as_json, where, lambda: f"serving at {where.url} (process {where.pid}); stop it by `surefoot stop`")

    if detach and log is not None:
        raise click.UsageError("--log is for the foreground: a detached server has serve.log in its run directory")
    if detach:
        from surefoot.serving.detach import start_detached

        say(start_detached(config))
        return 0
    from surefoot.serving.detach import LOG_FORMAT, log_to
    from surefoot.serving.supervisor import run

    if log is not None:
        log_to(log)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    return run(config, say)


@click.command()
@json_option
@click.pass_context
def stop(context: click.Context, as_json: bool) -> None:
    """Stop the server after the requests it has begun. A server that does not run is no error."""
    from surefoot.serving.admin import AdminClient, NotRunning

    try:
        AdminClient.connect(device_config(context)).stop()
    except NotRunning:
        emit(as_json, {"stopped": False}, lambda: "no server runs here")
        return
    emit(as_json, {"stopped": True}, lambda: "stopped")


@click.command()
@json_option
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Show what the running server serves."""
    from surefoot.serving.admin import AdminClient, ServingStatus

    def text(seen: ServingStatus) -> str:
        lines = [f"{seen.url}  {'ready' if seen.ready else 'not ready: ' + seen.problem}"]
        for model in seen.models:
            latency = f", p50 {model.p50_ms:.2f} ms, p99 {model.p99_ms:.2f} ms" if model.p50_ms and model.p99_ms else ""
            what = (
                f"{model.version} from slot {model.slot} by {model.runtime} ({model.provider}), "
                f"{model.inferences} inferences{latency}"
                if model.ready
                else f"{model.state}{': ' + model.reason if model.reason else ''}"
            )
            lines.append(f"  {model.name}  {what}")
        return "\n".join(lines)

    seen = AdminClient.connect(device_config(context)).status()
    emit(as_json, seen, lambda: text(seen))
