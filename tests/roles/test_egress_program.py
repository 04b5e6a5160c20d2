"""`surefoot-egress`: how it tells rules apart. What it does to a kernel is shown by the role's molecule scenario."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import ROOT

PATH = ROOT / "roles" / "egress_lockdown" / "files" / "surefoot_egress.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("surefoot_egress", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rule(*ports: int, handle: int = 1, packets: int = 0) -> dict[str, Any]:
    match = {"match": {"op": "==", "left": "dport", "right": {"set": list(ports)}}}
    counter = {"counter": {"packets": packets, "bytes": packets * 60}}
    return {"rule": {"chain": "allowed", "handle": handle, "expr": [match, counter, {"accept": None}]}}


def test_handles_counts_and_the_order_in_a_set_make_no_other_table(program):
    assert program.same([rule(443, 80, handle=7, packets=9)], [rule(80, 443)])


@pytest.mark.parametrize(
    "other",
    [
        [],
        [rule(443)],
        [rule(443), rule(80), rule(22)],
        [rule(80), rule(443)],  # the first rule that fits decides
        [{"table": {"name": "surefoot_egress", "flags": ["dormant"]}}, rule(443), rule(80)],
    ],
)
def test_another_rule_another_order_or_a_dormant_table_is_another_table(program, other):
    assert not program.same([rule(443), rule(80)], other)


def test_no_table_is_never_the_table_that_was_asked_for(program):
    assert not program.same([], [])


def test_names_and_numbers_that_are_no_address_are_refused(program):
    refused = ["dns.example.com", "bad.cafe", "300.1.1.1", "10.0.0.0/33"]
    assert program.not_addresses(["192.0.2.7", "192.0.2.0/24", "::/0", "2001:db8::1", *refused]) == refused
