"""The model's journey on the device: fetch, verify, fill a slot, gate, activate, confirm, or go back.

Each step calls the parts below in order and owns none of their rules.
"""

from typing import TYPE_CHECKING, Any

from surefoot.update.switch import SwitchReport, activate, confirm, reject, remove, rollback

if TYPE_CHECKING:
    from surefoot.update.installation import GateDeferred, GateFailed, InstallReport, Plan, install, plan

__all__ = [
    "GateDeferred",
    "GateFailed",
    "InstallReport",
    "Plan",
    "SwitchReport",
    "activate",
    "confirm",
    "install",
    "plan",
    "reject",
    "remove",
    "rollback",
]


def __getattr__(name: str) -> Any:
    """What belongs to an install is imported when it is asked for: a rollback does not wait for it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from surefoot.update import installation

    return getattr(installation, name)
