"""What a server refuses to be configured as, said before anything is opened."""

from __future__ import annotations

from surefoot.config import Config
from surefoot.errors import BadRequest
from surefoot.serving.frames import MOST_PAYLOAD_BYTES
from surefoot.serving.sockets import check_host


def check(config: Config) -> None:
    """What the types of the configuration cannot say.

    Raises:
        BadRequest: an address that is not loopback, or a limit that makes no sense.
    """
    check_host(config.gateway.host)
    gateway = config.gateway
    if not 0 <= gateway.port < 1 << 16:
        raise BadRequest("gateway.port is not a port", found=str(gateway.port), expected="0 to 65535")
    if not 0 < gateway.most_body_bytes <= MOST_PAYLOAD_BYTES:
        raise BadRequest(
            "gateway.most_body_bytes is out of range",
            found=str(gateway.most_body_bytes),
            expected=f"1 to {MOST_PAYLOAD_BYTES}",
        )
    if gateway.queue_depth < 0 or gateway.request_timeout_s <= 0 or gateway.drain_timeout_s < 0:
        raise BadRequest("a limit in [gateway] makes no sense", found=str(gateway))
    if not 1 <= config.runtime.threads <= 256 or config.runtime.load_timeout_s <= 0:
        raise BadRequest("a limit in [runtime] makes no sense", found=str(config.runtime))
