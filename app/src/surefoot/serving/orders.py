"""What is said on the admin socket: one line of JSON each way."""

from __future__ import annotations

from typing import Literal

import msgspec

from surefoot.serving.status import ServingStatus, SwapReport

MOST_LINE_BYTES = 4096


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What can be asked."""

    op: Literal["status", "swap", "stop"]
    name: str = ""


class Result(msgspec.Struct, frozen=True):
    """What comes back: one of them."""

    status: ServingStatus | None = None
    swap: SwapReport | None = None
    stopping: bool = False
    error: dict[str, str] | None = None
