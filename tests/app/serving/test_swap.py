"""From one release to another while requests come: no gap, and nothing bad gets through."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
import urllib3

from surefoot.config import Standby
from surefoot.release.manifest import Tolerance
from surefoot.runtimes import Options, load_runtime
from surefoot.serving.client import Client
from surefoot.serving.proving import prove
from tests.app.serving import tiny_onnx
from tests.app.serving.device import (
    Device,
    Release,
    classifier_release,
    dense_release,
    picture,
    release_of,
    settles,
    weights,
)
from tests.app.serving.load import asking

V2 = classifier_release("2.0.0", seed=2)


@pytest.fixture(scope="module")
def lent_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    device = Device(tmp_path_factory.mktemp("lent") / "device")
    device.confirm(classifier_release())
    device.start()
    yield device
    device.stop()


@pytest.fixture
def steady(lent_server: Device) -> Iterator[Device]:
    """A running server for tests after which 1.0.0 still serves, as the store says again when they are done."""
    yield lent_server
    if lent_server.store().read().trial is not None:
        lent_server.store().reject("as the caller of a swap does")
    assert served(lent_server) == "1.0.0"


def served(server: Device) -> str:
    return str(Client(server.url).model("tiny")["versions"][0])


def flip(path) -> None:
    """One bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def disagreeing() -> Release:
    """Its golden cases expect the answers of other weights."""
    other = {case.id: case for case in _cases(classifier_release(seed=3))}
    return classifier_release("2.0.0", seed=2, spoil=lambda case: other[case.id])


def _cases(release: Release):
    from surefoot.release import golden

    return golden.decode(release.files["golden.msgpack"])


def test_a_swap_under_load_fails_no_request(server):
    with asking(server) as seen:
        assert settles(lambda: seen.versions == ["1.0.0"])
        server.activate(V2)
        report = server.admin.swap("tiny")
        assert report.swapped and (report.version, report.golden["agreed"]) == ("2.0.0", 6)
        assert settles(lambda: seen.versions == ["1.0.0", "2.0.0"])
        server.store().rollback(1, "a test")
        assert server.admin.swap("tiny").version == "1.0.0"
        answered = seen.statuses[200]
        assert settles(lambda: seen.statuses[200] > answered + 5)
    assert set(seen.statuses) == {200}, seen.statuses
    assert served(server) == "1.0.0"


def test_the_old_worker_leaves_after_a_swap_and_lets_go_of_its_slot(make_server):
    server = make_server()
    server.config = msgspec.structs.replace(server.config, standby=Standby(seconds=0))
    server.confirm(classifier_release())
    server.start()
    before = server.admin.status().models[0]
    server.activate(V2)
    assert server.admin.swap("tiny").swapped
    from surefoot.durable import locked

    with locked(server.store().slot_lock_path("a"), wait_s=10.0):
        pass
    after = server.admin.status().models[0]
    assert (before.slot, after.slot) == ("a", "b") and before.pid != after.pid
    assert settles(lambda: not _exists(before.pid))


def _exists(pid: int) -> bool:
    import os

    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_second_swap_to_the_same_release_does_nothing(steady):
    pid = steady.admin.status().models[0].pid
    report = steady.admin.swap("tiny")
    assert report.swapped and "already" in report.reason
    assert steady.admin.status().models[0].pid == pid


def test_one_flipped_bit_in_the_model_is_refused_and_the_old_one_goes_on(steady):
    slot = steady.activate(V2)
    artifact = steady.store().slot_path(slot) / "model.onnx"
    flip(artifact)
    load_runtime("onnxruntime").load(artifact, Options())  # the mutant: without the digest it would be served
    with asking(steady, 1) as seen:
        report = steady.admin.swap("tiny")
        assert not report.swapped and "model.onnx is not the file" in report.reason
    assert set(seen.statuses) == {200} and seen.versions == ["1.0.0"]
    model = steady.admin.status().models[0]
    assert model.ready and model.version == "1.0.0"


def test_golden_cases_that_disagree_are_refused_and_the_old_one_goes_on(steady):
    steady.activate(disagreeing())
    report = steady.admin.swap("tiny")
    assert not report.swapped and "golden cases" in report.reason
    assert served(steady) == "1.0.0"


def test_the_same_release_is_taken_where_its_tolerance_allows_anything(server):
    """The mutant: only the comparison with the golden cases refused it."""
    release = disagreeing()
    (variant,) = release.manifest.variants
    variant = msgspec.structs.replace(variant, tolerance=Tolerance(probability=1.0, agreement=0.0))
    lax = release_of(
        variant,
        release.files["model.onnx"],
        _cases(release),
        name="tiny",
        version="2.0.0",
        labels=release.manifest.labels,
    )
    server.activate(lax)
    assert server.admin.swap("tiny").swapped and served(server) == "2.0.0"


def test_a_file_that_is_no_model_is_refused_and_the_old_one_goes_on(steady):
    steady.activate(classifier_release("2.0.0", artifact=b"this is no model"))
    report = steady.admin.swap("tiny")
    assert not report.swapped and "cannot be loaded" in report.reason
    assert served(steady) == "1.0.0"


def test_a_model_with_other_tensors_than_its_manifest_is_refused(steady):
    steady.activate(classifier_release("2.0.0", artifact=tiny_onnx.identity("FP32")))
    report = steady.admin.swap("tiny")
    assert not report.swapped and "different inputs" in report.reason


def test_a_model_that_comes_and_goes_while_the_server_runs(server):
    from surefoot.durable import Disk

    server.confirm(dense_release("onnxruntime"))
    assert server.admin.swap("onnxruntime").swapped
    assert Client(server.url).model("onnxruntime")["versions"] == ["1.0.0"]
    Disk().remove_directory(server.config.models_dir / "onnxruntime")
    assert server.admin.swap("onnxruntime").swapped
    reply = urllib3.request("GET", f"{server.url}/v2/models/onnxruntime", retries=False)
    assert reply.status == 404
    assert Client(server.url).ready(), "what is not on the device does not make the server unready"


def test_a_trial_that_cannot_be_loaded_at_boot_gives_way_to_the_confirmed_release(make_server):
    server = make_server()
    server.confirm(classifier_release())
    server.activate(disagreeing())
    server.start()
    assert served(server) == "1.0.0" and Client(server.url).ready()
    state = server.store().read()
    assert state.trial is None and [entry.version for entry in state.quarantine] == ["2.0.0"]


def test_a_trial_whose_tries_are_used_up_is_put_off_without_blame(make_server):
    from surefoot.slots.store import Store, TriesUsedUp

    server = make_server()
    server.confirm(classifier_release())
    server.activate(V2)
    for boot in ("one", "two", "three"):
        Store(server.config.models_dir, "tiny", tries=3, boot=boot).record_try()
    with pytest.raises(TriesUsedUp):
        Store(server.config.models_dir, "tiny", tries=3, boot="four").record_try()
    server.start()
    assert served(server) == "1.0.0"
    state = server.store().read()
    assert state.trial is None and state.quarantine == ()


def test_a_gate_on_a_good_release_passes_and_measures(make_server):
    device = make_server()
    slot = device.fill(classifier_release())
    release = classifier_release().manifest
    proof = prove(device.config, device.store().slot_path(slot), release, release.variants[0])
    assert proof.passed, proof.reasons
    assert (proof.cases, proof.agreed) == (6, 6) and proof.worst_difference < 0.01
    assert 0 < proof.latency_p50_ms <= proof.latency_p99_ms and proof.memory_bytes > 1 << 20 and proof.load_s > 0
    assert "CPU" in proof.provider and proof.summary().startswith("passed")


@pytest.mark.parametrize("fault", ["disagrees", "no model", "flipped bit", "dear", "no golden file", "nan"])
def test_a_gate_on_a_bad_release_fails_with_the_reason(make_server, fault):
    from surefoot.release.manifest import Budget

    device = make_server()
    release = {
        "disagrees": disagreeing,
        "no model": lambda: classifier_release(artifact=b"no model"),
        "nan": lambda: classifier_release(
            artifact=tiny_onnx.classifier(weights(1)[0] * float("nan"), weights(1)[1], 8)
        ),
    }.get(fault, classifier_release)()
    if fault == "dear":
        variant = msgspec.structs.replace(release.manifest.variants[0], budget=Budget(memory_bytes=1000))
        release = release_of(
            variant, release.files["model.onnx"], _cases(release), name="tiny", version="1.0.0", labels=()
        )
    directory = device.store().slot_path(device.fill(release))
    if fault == "flipped bit":
        flip(directory / "model.onnx")
    if fault == "no golden file":
        (directory / "golden.msgpack").unlink()
    proof = prove(device.config, directory, release.manifest, release.manifest.variants[0])
    says = {
        "disagrees": "golden cases",
        "no model": "cannot be loaded",
        "flipped bit": "model.onnx is not the file",
        "dear": "memory",
        "no golden file": "golden.msgpack",
        "nan": "not finite",
    }
    assert not proof.passed and says[fault] in "; ".join(proof.reasons)


def test_a_try_is_recorded_before_a_trial_is_loaded_and_its_answers_are_its_own(server):
    before = Client(server.url).classify(picture(1), "tiny")
    server.activate(V2)
    server.admin.swap("tiny")
    trial = server.store().read().trial
    assert trial is not None and trial.tries == 1
    after = Client(server.url).classify(picture(1), "tiny")
    assert (before.model_version, after.model_version) == ("1.0.0", "2.0.0")
    assert before.probabilities != after.probabilities
