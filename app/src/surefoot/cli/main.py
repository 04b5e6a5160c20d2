"""The command ``surefoot``: finds the subcommand, and turns errors into messages and exit codes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from surefoot import __version__
from surefoot.errors import BadRequest, DeviceUnable, SurefootError, TransportFailed, UntrustedRelease

EXIT_CODES: dict[type[SurefootError], int] = {BadRequest: 2, UntrustedRelease: 3, DeviceUnable: 4, TransportFailed: 5}

OWNER = "run as the user who owns the data directory, or as root"

# Subcommands are imported when they are used: `surefoot model status` must not wait for the server's imports.
COMMANDS = {
    "classify": ("surefoot.cli.infer", "Classify images by a running server."),
    "config": ("surefoot.cli.config", "Check a device's configuration."),
    "device": ("surefoot.cli.device", "Prepare new devices."),
    "doctor": ("surefoot.cli.doctor", "Say what is wrong with this device, and what to do."),
    "keys": ("surefoot.cli.keys", "Make the keys that sign releases."),
    "model": ("surefoot.cli.model", "Install, activate, confirm and roll back models on this device."),
    "release": ("surefoot.cli.release", "Build, sign, publish and check releases."),
    "serve": ("surefoot.cli.serve", "Serve this device's models."),
    "status": ("surefoot.cli.serve", "Show what is being served."),
    "stop": ("surefoot.cli.serve", "Stop the server."),
}


class Lazy(click.Group):
    """A group whose subcommands are imported on first use; errors of ours become exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in ``--help``, from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="surefoot")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The device's surefoot.toml. Default: $SUREFOOT_CONFIG, then /data/surefoot/surefoot.toml.",
)
@click.pass_context
def surefoot(context: click.Context, config_path: Path | None) -> None:
    """Puts trained models onto edge devices, keeps them answering, and never bricks one.

    Exit status: 0 done, 1 unexpected, 2 bad usage or input, 3 release not to be trusted, 4 the device cannot,
    5 bytes did not arrive.
    """
    context.obj = config_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = surefoot.main(args=arguments, prog_name="surefoot", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.Abort:
        click.echo("Aborted.", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SurefootError as error:
        return _refused(error, arguments)
    except PermissionError as error:
        what = f"this user may not use {error.filename}"
        return _refused(DeviceUnable(what, found=str(error.strerror), hint=OWNER), arguments)


def _refused(error: SurefootError, arguments: Sequence[str]) -> int:
    if "--json" in arguments:
        click.echo(msgspec.json.encode(error.as_dict()).decode())
    else:
        click.echo(_message(error), err=True)
    return next(code for family, code in EXIT_CODES.items() if isinstance(error, family))


def _message(error: SurefootError) -> str:
    lines = [f"surefoot: {error.what}"]
    for label, text in (("found", error.found), ("expected", error.expected), ("what to do", error.hint)):
        if text:
            lines.append(f"  {label}: {text}")
    return "\n".join(lines)
