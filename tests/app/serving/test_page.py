"""The status page, its JSON, and the metrics; each metric and address stands in the reference."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import urllib3
from prometheus_client.parser import text_string_to_metric_families

from surefoot.serving.page import render
from surefoot.serving.status import ModelServing, ServingStatus
from tests.app.serving.device import Device, picture

REFERENCE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "serving.md"


def get(server: Device, path: str) -> urllib3.BaseHTTPResponse:
    return urllib3.request("GET", server.url + path, retries=False, timeout=10.0)


def classified(server: Device) -> None:
    reply = urllib3.request("POST", f"{server.url}/v2/models/tiny/classify", body=picture(), retries=False)
    assert reply.status == 200


class Reader(HTMLParser):
    """Text and the addresses that a browser would fetch by itself."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.fetched, self.tags = "", [], set[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [value for key, value in attrs if key in ("src", "data") or (tag == "link" and key == "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_what_serves_and_fetches_nothing(shared_server):
    classified(shared_server)
    reply = get(shared_server, "/")
    page = Reader(reply.data.decode())
    assert (
        reply.headers["content-type"].startswith("text/html")
        and "default-src 'none'" in reply.headers["content-security-policy"]
    )
    for shown in ("tiny", "1.0.0", "ready", "confirmed", "p99", "Last events", "onnxruntime"):
        assert shown in page.text, shown
    assert page.fetched == [] and "script" not in page.tags


def test_status_json_says_the_same_as_the_command(shared_server):
    classified(shared_server)
    said = get(shared_server, "/status.json").json()
    (model,) = said["models"]
    ours = shared_server.admin.status()
    assert (model["version"], model["digest"], model["slot"]) == (ours.models[0].version, ours.models[0].digest, "a")
    assert said["ready"] and model["inferences"] >= 1 and model["p50_ms"] > 0
    assert model["slots"]["slots"]["a"]["status"] == "confirmed"
    assert [event["what"] for event in model["events"]]


def test_whatever_a_release_says_of_itself_is_text_on_the_page():
    evil = "<script>alert(1)</script>\"'&"
    model = ModelServing(
        name=evil, state=evil, reason=evil, version=evil, slot=evil, runtime=evil, provider=evil,
        slots={
            "active": {"slot": evil}, "trial": {"tries": 1, "allowed": 3}, "held": True,
            "put_off": {"version": evil, "again": True},
            "slots": {evil: {"status": evil, "version": evil, "digest": evil}},
            "quarantine": [{"version": evil, "digest": evil, "reason": evil}],
            "previous": [{"version": evil}],
        },
        events=[{"time": evil, "what": evil, "version": evil, "reason": evil}],
    )  # fmt: skip
    status = ServingStatus(
        version=evil, pid=1, url=evil, http_socket="", admin_socket="", started_at=evil, uptime_s=90061.0,
        ready=False, problem=evil, gateway_pid=None, gateway_restarts=0, models=(model,),
    )  # fmt: skip
    page = render(status)
    assert "<script" not in page and "script" not in Reader(page).tags
    assert "<script>alert(1)</script>" in Reader(page).text
    for shown in ("not ready", "on trial, try 1 of 3", "will be tried again", "held", "Quarantined", "1 d 1 h"):
        assert shown in Reader(page).text, shown


def test_the_page_of_a_device_without_models_says_how_to_get_one():
    status = ServingStatus(
        version="1", pid=1, url="u", http_socket="", admin_socket="", started_at="t", uptime_s=1.0, ready=False,
        problem="no model is active on this device", gateway_pid=2, gateway_restarts=0, models=(),
    )  # fmt: skip
    assert "surefoot model install" in render(status)


def test_metrics_count_requests_by_status_and_say_what_serves(shared_server):
    def value(name: str, **labels: str) -> float:
        for family in text_string_to_metric_families(get(shared_server, "/metrics").data.decode()):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return 0.0

    good = {"model": "tiny", "operation": "classify", "code": "200"}
    bad = {"model": "", "operation": "infer", "code": "404"}
    before = value("surefoot_requests_total", **good), value("surefoot_requests_total", **bad)
    classified(shared_server)
    for name in ("made-up-1", "made-up-2"):
        urllib3.request("POST", f"{shared_server.url}/v2/models/{name}/infer", body=b"{}", retries=False)
    after = value("surefoot_requests_total", **good), value("surefoot_requests_total", **bad)
    assert (after[0] - before[0], after[1] - before[1]) == (1, 2)
    assert value("surefoot_model_info", version="1.0.0", slot="a", provider="CPUExecutionProvider") == 1
    assert value("surefoot_model_ready", model="tiny") == 1
    assert value("surefoot_worker_memory_bytes", model="tiny") > 1 << 20
    assert value("surefoot_request_duration_seconds_count", model="tiny", operation="classify") >= 1
    assert "made-up" not in get(shared_server, "/metrics").data.decode(), "clients cannot make labels"


def test_each_metric_and_each_address_stands_in_the_reference(shared_server):
    from surefoot.serving.application import application

    text = REFERENCE.read_text()
    families = {family.name for family in text_string_to_metric_families(get(shared_server, "/metrics").data.decode())}
    ours = {re.sub(r"_created$", "", name) for name in families if name.startswith("surefoot_")}
    assert len(ours) >= 7
    for name in ours:
        assert f"`{name}" in text, name
    nothing = type("Nothing", (), {"__getattr__": lambda self, name: None})()
    for route in application(nothing, nothing, nothing)._inner.routes:
        assert f"`{route.path}`" in text, route.path
