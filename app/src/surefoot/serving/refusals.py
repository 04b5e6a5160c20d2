"""What the gateway refuses, and the HTTP status of each refusal and family. Codes are chosen here and nowhere else."""

from __future__ import annotations

from surefoot.errors import BadRequest, DeviceUnable, SurefootError, TransportFailed, UntrustedRelease

RETRY_AFTER_S = 1


class NoSuchModel(BadRequest):
    """No model of that name or version is on this device."""


class NoSuchPath(BadRequest):
    """The address is not one of this server's."""


class WrongMethod(BadRequest):
    """The address exists, but not for this method."""


class BodyTooLarge(BadRequest):
    """The body is longer than the server takes."""


class SlowClient(BadRequest):
    """The body did not arrive before the deadline."""


class WrongMedia(BadRequest):
    """The body's type or encoding is not taken."""


class Overloaded(DeviceUnable):
    """The queue is full; nothing of the request was begun, so it may be sent again."""


class NoWorker(DeviceUnable):
    """No worker serves the model now."""


class WorkerLost(DeviceUnable):
    """The worker died while it held the request."""


class DeadlinePassed(DeviceUnable):
    """The answer did not come before the deadline."""


# The first that fits counts, so that families stand at the end.
_STATUS: tuple[tuple[type[SurefootError], int], ...] = (
    (NoSuchModel, 404),
    (NoSuchPath, 404),
    (WrongMethod, 405),
    (SlowClient, 408),
    (BodyTooLarge, 413),
    (WrongMedia, 415),
    (DeadlinePassed, 504),
    (BadRequest, 400),
    (UntrustedRelease, 500),
    (TransportFailed, 502),
    (DeviceUnable, 503),
)


def status_of(error: SurefootError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
