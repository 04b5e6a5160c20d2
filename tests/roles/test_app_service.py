"""Whether an app proved itself, serves and stays: by what real sockets say, with a clock and a systemd of the test."""

from __future__ import annotations

import importlib
import json
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import msgspec
import pytest

from surefoot.slots.sealed import seal
from surefoot.slots.state import FORMAT
from tests.app.serving.device import Device, classifier_release
from tests.conftest import ROOT

VERSION = "1.2.3"


@pytest.fixture(scope="module")
def plugins() -> Iterator[Callable[[str], Any]]:
    """Modules of the collection, imported as Ansible imports them on a device."""
    before = set(sys.modules)
    sys.path.insert(0, str(ROOT / "playbooks" / "collections"))
    yield lambda name: importlib.import_module(f"ansible_collections.surefoot.edge.plugins.{name}")
    sys.path.remove(str(ROOT / "playbooks" / "collections"))
    for name in set(sys.modules) - before:
        if name.startswith("ansible_collections"):
            del sys.modules[name]


class App:
    """A gateway as a client sees it, and the process number that systemd would tell."""

    def __init__(self, folder: Path) -> None:
        self.version, self.models, self.process = VERSION, {"tiny": True}, 100
        self.step: Callable[[int], None] = lambda looks: None
        self.now_s, self.looks = 0.0, 0
        app = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                models = [{"name": name, "ready": ready} for name, ready in app.models.items()]
                name = self.path.split("/")[-2]
                status = 200 if self.path in ("/v2", "/status.json") or app.models.get(name) else 503
                told = {"version": app.version, "models": models, "padding": "x" * 100_000}
                body = json.dumps(told if self.path != "/v2" else {"version": app.version}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "a test"

            def log_message(self, *_: object) -> None:
                pass

        self.server = socketserver.ThreadingUnixStreamServer(str(folder / "http.sock"), Answer)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def pause(self, seconds: float) -> None:
        self.now_s += seconds
        self.looks += 1
        self.step(self.looks)


@pytest.fixture
def app() -> Iterator[App]:
    with tempfile.TemporaryDirectory(prefix="sf-") as folder:  # a short path: sockets' addresses are short
        made = App(Path(folder))
        yield made
        made.server.shutdown()
        made.server.server_close()


@pytest.fixture
def apps(tmp_path: Path, plugins: Callable[[str], Any]) -> Any:
    made = plugins("module_utils.app_store").Apps(tmp_path)
    for name in ("old", "new"):
        made.begin(name)
        made.mark("complete", name)
        if name == "old":
            made.mark("confirmed", name)
        else:
            made.begin_trial(name)
        made.switch(name)
    return made


@pytest.fixture
def stays(app: App, apps: Any, plugins: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    module, engines = plugins("module_utils.app_service"), plugins("module_utils.app_engines")

    def run(command: list[str], *_: object, **__: object) -> Any:
        return engines.Done(0, f"{app.process}\n" if "show" in command else "its last words\n", "")

    monkeypatch.setattr(module, "run", run)
    folder = Path(app.server.server_address).parent
    service = module.Service("an.service", folder, 5.0, folder / "instead", clock=lambda: app.now_s, pause=app.pause)
    return lambda models=("tiny",), steady_s=10.0, most_s=60.0: service.stays(apps, VERSION, models, steady_s, most_s)


def test_an_app_that_serves_all_models_for_long_enough_stays(app: App, stays: Callable[..., str]) -> None:
    assert stays() == ""
    assert 10 <= app.now_s < 12


def test_a_device_without_a_model_needs_none(app: App, stays: Callable[..., str]) -> None:
    app.models = {}
    assert stays(models=()) == ""


def test_an_app_that_ends_and_is_started_again_does_not_stay(app: App, stays: Callable[..., str]) -> None:
    app.step = lambda looks: setattr(app, "process", 101) if looks == 9 else None
    assert stays() == "it ended and was started again within 10 s: its last words"
    assert app.now_s < 6


def test_a_model_that_served_before_must_be_served(app: App, stays: Callable[..., str]) -> None:
    assert stays(models=("tiny", "other")) == "other not ready after 60 s: its last words"
    assert app.now_s > 60


def test_a_model_that_loads_slowly_is_waited_for(app: App, stays: Callable[..., str]) -> None:
    app.models["tiny"] = False
    app.step = lambda looks: app.models.update(tiny=looks >= 80)
    assert stays() == ""
    assert 50 <= app.now_s < 52


def test_a_model_that_comes_and_goes_does_not_stay(app: App, stays: Callable[..., str]) -> None:
    app.step = lambda looks: app.models.update(tiny=looks % 15 != 0)
    assert "tiny not ready after 60 s" in stays()


def test_another_version_does_not_stay(app: App, stays: Callable[..., str]) -> None:
    app.version = "0.9.0"
    assert "version 0.9.0 answers, not 1.2.3 after 60 s" in stays()


def test_a_device_that_returned_by_itself_is_said_so(app: App, apps: Any, stays: Callable[..., str]) -> None:
    app.step = lambda looks: [apps.start(3) for _ in range(4)] if looks == 3 else None
    assert stays() == "the device returned to old by itself: its last words"


def test_a_device_that_started_another_one_instead_is_said_so(app: App, stays: Callable[..., str]) -> None:
    instead = Path(app.server.server_address).parent / "instead"
    app.step = lambda looks: instead.symlink_to("apps/old") if looks == 3 else None
    assert stays() == "the device started old instead: its last words"


def test_mutant_without_its_look_at_the_process_an_app_that_restarts_stays(
    app: App, stays: Callable[..., str], plugins: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    app.step = lambda looks: setattr(app, "process", 100 + looks)
    assert "it ended" in stays()
    monkeypatch.setattr(plugins("module_utils.app_service").Service, "process", lambda self: "100")
    assert stays() == ""


# -- what an app says of itself ----------------------------------------------------------------------------------------


def proof(plugins: Callable[[str], Any], out: str, err: str = "", status: int = 0) -> list[str]:
    engines = plugins("module_utils.app_engines")
    return list(engines.golden(engines.Done(status, out, err), "1.2.3-abc"))


def model(name: str, *reasons: str, version: str | None = "1.0.0") -> dict[str, Any]:
    return {"name": name, "ok": not reasons, "golden": {"ok": not reasons, "reasons": reasons, "version": version}}


def test_the_models_that_an_app_has_proved_are_those_that_it_must_serve(plugins: Callable[[str], Any]) -> None:
    said = {"ok": True, "models": [model("a"), model("b", version=None)]}
    assert proof(plugins, json.dumps(said)) == ["a"]
    assert proof(plugins, '{"ok": true, "models": []}') == []


def test_damage_that_no_app_could_mend_is_not_held_against_a_new_one(plugins: Callable[[str], Any]) -> None:
    said = {"ok": False, "models": [{**model("a"), "ok": False, "slots": [{"ok": False}]}]}
    assert proof(plugins, json.dumps(said), status=4) == ["a"]


@pytest.mark.parametrize(
    ("out", "err", "found"),
    [
        (json.dumps({"ok": False, "models": [model("a"), model("b", "2 of 6 agree")]}), "", "found: b: 2 of 6 agree"),
        ('{"error": "NewerFormat", "what": "W", "found": "F", "expected": "E"}', "", "found: W; F; E"),
        ("", "Error: No such option: --golden", "No such option: --golden"),
        ("no JSON", "", "no JSON"),
        ("[1]", "", "[1]"),
        ('{"models": [{"name": "a"}]}', "", '{"models"'),
        ("", "", "exit status 7"),
    ],
)
def test_anything_else_than_a_proof_is_a_refusal_with_the_reason(
    plugins: Callable[[str], Any], out: str, err: str, found: str
) -> None:
    with pytest.raises(Exception, match=r"app 1\.2\.3-abc cannot serve what this device holds") as refused:
        proof(plugins, out, err, status=7)
    assert found in str(refused.value) and "nothing was changed" in str(refused.value)


def test_an_app_that_cannot_read_the_format_of_the_state_is_not_returned_to(
    plugins: Callable[[str], Any], tmp_path: Path
) -> None:
    """Its own proof, on a state whose format is the next one: both copies, with a right checksum."""
    device = Device(tmp_path)
    device.confirm(classifier_release())
    (tmp_path / "surefoot.toml").write_text('data_dir = "data"\nrun_dir = "run"\n')
    later = msgspec.structs.replace(device.store().read(), format=FORMAT + 1)
    copies = [device.config.models_dir / "tiny" / f"state.{number}" for number in (0, 1)]
    for path in copies:
        path.write_bytes(seal(later))
    before = [path.read_bytes() for path in copies]
    config = str(tmp_path / "surefoot.toml")
    line = [sys.executable, "-m", "surefoot", "--config", config, "model", "verify", "--golden", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    with pytest.raises(Exception, match=r"app 1\.2\.3-abc cannot serve what this device holds") as refused:
        proof(plugins, done.stdout, done.stderr, done.returncode)
    assert f"found: state format {FORMAT + 1}" in str(refused.value) or f"state format {FORMAT + 1};" in str(
        refused.value
    )
    assert "nothing was changed" in str(refused.value) and [path.read_bytes() for path in copies] == before


class Verifies:
    """A double of an app's ``surefoot model verify``, which does not know ``--golden``; as click says that."""

    usage = "Usage: surefoot model verify [OPTIONS] [NAME]\nTry 'surefoot model verify --help' for help.\n\n"

    def __init__(
        self, plugins: Callable[[str], Any], plain: Any = None, status: int = 0, no: str = "No such option: --golden"
    ) -> None:
        self.no = no
        self.engines = plugins("module_utils.app_engines")
        self.plain = {"ok": True, "models": [{"name": "a", "ok": True, "slots": []}]} if plain is None else plain
        self.status, self.asked = status, list[list[str]]()

    def __call__(self, options: list[str]) -> Any:
        self.asked.append(list(options))
        if options:
            return self.engines.Done(2, "", f"{self.usage}Error: {self.no}\n")
        return self.engines.Done(self.status, json.dumps(self.plain), "")

    def proved(self, confirmed: bool) -> Any:
        return self.engines.proved(self, "1.2.3-abc", confirmed)


@pytest.mark.parametrize("no", ["No such option: --golden", "No such option '--golden'."])
def test_an_app_that_was_confirmed_and_is_too_old_for_golden_cases_is_proved_by_digests(
    plugins: Callable[[str], Any], no: str
) -> None:
    old = Verifies(plugins, no=no)
    assert old.proved(confirmed=True) == ([], "1.2.3-abc is too old for golden cases and was proved by digests alone")
    assert old.asked == [["--golden"], []]


def test_a_new_app_is_never_proved_by_digests_alone(plugins: Callable[[str], Any]) -> None:
    old = Verifies(plugins)
    with pytest.raises(Exception, match="No such option: --golden"):
        old.proved(confirmed=False)
    assert old.asked == [["--golden"]]


@pytest.mark.parametrize(
    ("plain", "status", "found"),
    [
        ({"ok": False, "models": [{"name": "a", "ok": False}]}, 4, "damaged: a"),
        ({"error": "NewerFormat", "what": "W"}, 4, "NewerFormat"),
        ({"ok": True, "models": []}, 1, "exit status 1|models"),
        ([], 0, "[]"),
    ],
)
def test_an_old_app_that_cannot_read_what_the_device_holds_is_not_returned_to(
    plugins: Callable[[str], Any], plain: Any, status: int, found: str
) -> None:
    with pytest.raises(Exception, match=found.replace("[", "\\[")):
        Verifies(plugins, plain, status).proved(confirmed=True)


def test_an_app_whose_golden_cases_fail_is_not_asked_for_less(plugins: Callable[[str], Any]) -> None:
    engines = plugins("module_utils.app_engines")
    said = engines.Done(4, json.dumps({"ok": False, "models": [model("a", "2 of 6 agree")]}), "")
    with pytest.raises(Exception, match="2 of 6 agree"):
        engines.proved(lambda options: said, "1.2.3-abc", True)
