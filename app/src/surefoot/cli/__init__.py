"""Arguments in, one call, text or ``--json`` out. Nothing here decides anything."""

from surefoot.cli.main import main

__all__ = ["main"]
