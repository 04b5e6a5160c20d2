"""The model's journey on the device: fetch, verify, fill a slot, gate, activate, confirm, or go back.

Each step calls the parts below in order and owns none of their rules.
"""

from surefoot.update.install import GateDeferred, GateFailed, InstallReport, Plan, install, plan
from surefoot.update.switch import SwitchReport, activate, confirm, reject, remove, rollback

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
