"""``surefoot classify``: pictures to a running server, labels back."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import click

from surefoot.cli.output import device_config, emit, json_option

MOST_PICTURE_BYTES = 64 * 1024 * 1024
WIDTH_CHARACTERS = 32
GREYS = " .:-=+*#%@"


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--model", required=True, help="Name of the model.")
@click.option("--url", help="Address of the server. Default: the one that runs on this device.")
@click.option("--show", is_flag=True, help="Draw each picture in the terminal.")
@json_option
@click.pass_context
def classify(
    context: click.Context, images: tuple[Path, ...], model: str, url: str | None, show: bool, as_json: bool
) -> None:
    """Ask a running server what pictures show."""
    from surefoot.durable import read_bounded
    from surefoot.errors import BadRequest
    from surefoot.serving.client import Client

    client = Client(url or _local(context))
    answers = []
    for path in images:
        try:
            picture = read_bounded(path, MOST_PICTURE_BYTES)
        except OSError as error:
            raise BadRequest(f"cannot read {path}", found=str(error.strerror)) from error
        answer = client.classify(picture, model)
        answers.append({"image": str(path), **{field: getattr(answer, field) for field in answer.__struct_fields__}})
        if not as_json:
            if show:
                click.echo(drawn(picture, sys.stdout.isatty()))
            click.echo(
                f"{path}: {answer.label} ({answer.confidence:.1%}), {answer.model_name} {answer.model_version}, "
                f"{answer.latency_ms:.2f} ms"
            )
    if as_json:
        emit(True, {"answers": answers}, str)


def _local(context: click.Context) -> str:
    from surefoot.serving.admin import AdminClient

    return AdminClient.connect(device_config(context)).endpoint.url


def drawn(picture: bytes, colour: bool, width: int = WIDTH_CHARACTERS) -> str:
    """A picture in characters, each two pixels high: half blocks in 24-bit colour, or a scale of grey in plain text.

    Raises:
        BadRequest: not a picture.
    """
    from PIL import Image

    from surefoot.errors import BadRequest

    try:
        whole = Image.open(io.BytesIO(picture), formats=("PNG", "JPEG"))
        height = max(2, round(whole.height * width / whole.width / 2) * 2)
        small = whole.convert("RGB").resize((width, min(height, 4 * width)), Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadRequest("the picture cannot be drawn", found=str(error)) from error
    if not colour:
        grey = small.convert("L").resize((width, small.height // 2), Image.Resampling.LANCZOS).tobytes()
        shades = [GREYS[value * len(GREYS) // 256] for value in grey]
        return "\n".join("".join(shades[at : at + width]).rstrip() for at in range(0, len(shades), width))
    data = small.tobytes()

    def pixel(x: int, y: int) -> str:
        red, green, blue = data[3 * (y * width + x) :][:3]
        return f"{red};{green};{blue}"

    rows = [
        "".join(f"\x1b[38;2;{pixel(x, y)}m\x1b[48;2;{pixel(x, y + 1)}m▀" for x in range(width)) + "\x1b[0m"
        for y in range(0, small.height - 1, 2)
    ]
    return "\n".join(rows)
