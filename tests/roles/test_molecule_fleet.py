"""The playbooks' scenarios of molecule. CI runs `fleet`: inference_app with both engines, and model_slots."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from tests.parts.docker import Engine
from tests.roles.scenarios import PLAYBOOKS, TIMEOUT_S, run

EMULATED_TIMEOUT_S = 3600


@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "fleet" else [pytest.mark.full]) for name in PLAYBOOKS]
)
def test_the_scenario_passes(name: str, engine: Engine, needs: Callable[[bool, str], None]) -> None:
    needs(shutil.which("ssh") is not None, "an ssh client")
    run(PLAYBOOKS[name], engine)


@pytest.mark.full
@pytest.mark.timeout(EMULATED_TIMEOUT_S + 60)
def test_a_device_runs_the_image_for_raspberry_pi_under_its_own_engine_and_answers(engine: Engine) -> None:
    """On an emulated processor; a double of the device's Python says that it is one for arm64."""
    run(PLAYBOOKS["fleet"], engine, EMULATED_TIMEOUT_S, SUREFOOT_FLEET_IMAGE="rpi")
