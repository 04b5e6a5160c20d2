"""The gate: by real workers where it can be, and by doubles of workers where timings must be known to the digit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from surefoot.config import Gate
from surefoot.release import manifest
from surefoot.release.manifest import Budget, Check
from surefoot.serving import baseline as baselines
from surefoot.serving import measuring, proving
from surefoot.serving.baseline import Baseline
from surefoot.serving.measuring import Bench, NotMeasured, Started
from surefoot.serving.messages import Clocked, GoldenRun, Load, Loaded
from surefoot.serving.process import WorkerFailed
from surefoot.serving.proving import Proof, prove
from surefoot.watch.doctor.files import Files
from surefoot.watch.gates import Verdict
from surefoot.watch.pace import LOOKS
from tests.app.serving.device import Device, Release, classifier_release, slow_release

COOL = "45000"


def with_budget(release: Release, **budget: float) -> Release:
    variant = msgspec.structs.replace(release.manifest.variants[0], budget=Budget(**budget))
    whole = msgspec.structs.replace(release.manifest, variants=(variant,))
    return Release(whole, manifest.encode(whole), release.files)


def gate(
    device: Device,
    active: Release | None,
    candidate: Release,
    files: Files | None = None,
    spoil: Callable[[Path], None] = lambda _: None,
) -> Proof:
    name = candidate.manifest.name
    against = None
    if active is not None:
        slot = device.confirm(active)
        store = device.store(name)
        against = Baseline(
            directory=store.slot_path(slot),
            lock=store.slot_lock_path(slot),
            digest=active.digest,
            variant=active.manifest.variants[0].id,
        )
    directory = device.store(name).slot_path(device.fill(candidate))
    variant = candidate.manifest.variants[0]
    if against is not None:
        spoil(against.directory)
    return prove(device.config, directory, candidate.manifest, variant, baseline=against, files=files)


def machine(root: Path, temperature: str = COOL, available_kib: int = 8_000_000) -> Files:
    """A folder that stands for /proc and /sys of a machine with one sensor; the kernel slows it down at 85 °C."""
    zone = root / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True, exist_ok=True)
    values = {"temp": temperature, "type": "cpu-thermal", "trip_point_0_type": "passive", "trip_point_0_temp": "85000"}
    for name, value in values.items():
        (zone / name).write_text(value)
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 9000000 kB\nMemAvailable: {available_kib} kB\n")
    return Files(root)


# -- by real workers -------------------------------------------------------------------------------------------------


def test_a_release_like_the_active_one_passes_and_says_by_how_many_pairs(make_server):
    proof = gate(make_server(), slow_release(4), with_budget(slow_release(4, "2.0.0"), latency_ratio=1.4))
    assert proof.passed, proof
    assert proof.pairs >= 200 and proof.ratio_low is not None and proof.ratio_high is not None
    assert proof.ratio_low <= proof.ratio_high <= 1.4
    assert "of the active one's" in proof.summary()


def test_one_that_is_twice_as_slow_as_the_active_one_fails(make_server):
    proof = gate(make_server(), slow_release(4), with_budget(slow_release(8, "2.0.0"), latency_ratio=1.4))
    assert not proof.passed and not proof.deferred
    assert "times as long as the active one, 1.4 times is allowed" in proof.reasons[0]


def test_without_an_active_release_a_ratio_is_not_judged_and_that_is_said(make_server):
    proof = gate(make_server(), None, with_budget(classifier_release(), latency_ratio=0.5))
    assert proof.passed and proof.notes == ("there is no active release to compare its latency with",)
    assert proof.notes[0] in proof.summary()


def test_an_active_release_that_lies_damaged_is_named_and_the_new_one_is_not_blamed(make_server):
    def damage(directory: Path) -> None:
        whole = (directory / "model.onnx").read_bytes()
        (directory / "model.onnx").write_bytes(whole[:-1] + b"?")

    candidate = with_budget(classifier_release("2.0.0"), latency_ratio=0.01)
    proof = gate(make_server(), classifier_release(), candidate, spoil=damage)
    assert proof.passed and "the active release does not run" in proof.notes[0]


@pytest.mark.parametrize(("limit", "passes"), [(1.0, True), (1.5, False)])
def test_a_models_own_check_is_run_in_a_worker_and_counts(make_server, limit, passes):
    release = classifier_release()
    variant = msgspec.structs.replace(
        release.manifest.variants[0], checks=(Check(metric="least_class_accuracy", at_least=limit),)
    )
    whole = msgspec.structs.replace(release.manifest, variants=(variant,))
    proof = gate(make_server(), None, Release(whole, manifest.encode(whole), release.files))
    assert proof.passed is passes and not proof.deferred and proof.checks[0].value == 1.0
    said = "least_class_accuracy 1," if passes else "the model's own check least_class_accuracy gives 1"
    assert said in proof.summary()


def test_a_hot_device_waits_and_then_defers(make_server, tmp_path):
    device = make_server()
    device.config = msgspec.structs.replace(device.config, gate=Gate(cool_wait_s=0.0))
    proof = gate(device, None, classifier_release(), machine(tmp_path / "machine", "86000"))
    assert proof.deferred and not proof.passed
    assert "from 85 °C on the kernel slows down" in proof.reasons[0]


def test_the_budgets_temperature_counts_below_the_kernels(make_server, tmp_path):
    device = make_server()
    device.config = msgspec.structs.replace(device.config, gate=Gate(cool_wait_s=0.0))
    release = with_budget(classifier_release(), temperature_c=60.0)
    assert gate(device, None, release, machine(tmp_path / "cool")).passed
    proof = gate(make_server("other"), None, release, Files(tmp_path / "nothing here"))
    assert proof.deferred and "no sensor of this device can be read" in proof.reasons[0]
    device.config = msgspec.structs.replace(device.config, data_dir=tmp_path / "again")
    hot = gate(device, None, release, machine(tmp_path / "warm", "61000"))
    assert hot.deferred and "is at 61 °C, the budget allows less than 60 °C" in hot.reasons[0]


def test_a_model_that_does_not_fit_beside_what_serves_is_deferred_before_it_is_loaded(make_server, tmp_path):
    release = with_budget(classifier_release(), memory_bytes=256 * 1024 * 1024)
    proof = gate(make_server(), None, release, machine(tmp_path / "machine", available_kib=100_000))
    assert proof.deferred and "102 MB of memory are available, 268 MB are needed" in proof.reasons[0]
    assert proof.load_s == 0.0


# -- by doubles ------------------------------------------------------------------------------------------------------

AGREED = Verdict(passed=True, cases=1, agreed=1, worst_difference=0.0)
Script = Callable[[int], float]  # the number of the inference to its latency in ms


class Worker:
    """Stands for a worker process: answers with timings from a script."""

    def __init__(self, latency: Script, log: list[str], name: str, waited: float = 0.0, dies_at: int = -1) -> None:
        self.latency, self.log, self.name, self.waited, self.dies_at = latency, log, name, waited, dies_at
        self.asked, self.alive = 0, True

    async def clock(self, at: int, runs: int, timeout_s: float) -> Clocked:
        taken = []
        for _ in range(runs):
            if self.asked == self.dies_at:
                self.alive = False
                raise WorkerFailed("the worker died during clock", evidence=True)
            taken.append(self.latency(self.asked))
            self.asked += 1
            self.log.append(self.name)
        return Clocked(tuple(taken), tuple(min(each, self.waited) for each in taken))


class Stage:
    """Two releases on a device whose workers are doubles."""

    def __init__(self, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device, self.log, self.naps = device, [], []
        self.budgets: dict[str, Budget] = {"active": Budget(), "candidate": Budget()}
        self.latency: dict[str, Script] = {"active": lambda _: 2.0, "candidate": lambda _: 2.0}
        self.verdict = {"active": AGREED, "candidate": AGREED}
        self.waited, self.memory, self.exclusive = 0.0, {"active": 1, "candidate": 1}, False
        self.dies = {"active": -1, "candidate": -1}
        monkeypatch.setattr(proving, "opened", self._opened)
        monkeypatch.setattr(baselines, "opened", self._opened)
        real = asyncio.sleep

        async def nap(delay: float) -> None:
            self.naps.append(delay)
            await real(0)

        monkeypatch.setattr(measuring.asyncio, "sleep", nap)

    @contextlib.asynccontextmanager
    async def _opened(self, load: Load, timeout_s: float) -> AsyncIterator[Started]:
        who = "active" if load.digest == self.active.digest else "candidate"
        self.log.append(f"open {who}")
        loaded = Loaded(
            "tiny", "1", load.digest, load.variant, "double", "0", "none", (), (), (), False, True, 0.1,
            self.memory[who], self.exclusive,
        )  # fmt: skip
        worker = Worker(self.latency[who], self.log, who[0], self.waited, self.dies[who])
        yield Started(worker, loaded, GoldenRun(self.verdict[who], 1))  # type: ignore[arg-type]  # a double
        self.log.append(f"close {who}")

    def run(self, files: Files | None = None) -> Proof:
        self.active = with_budget(classifier_release("1.0.0"), **_given(self.budgets["active"]))
        candidate = with_budget(classifier_release("2.0.0"), **_given(self.budgets["candidate"]))
        return gate(self.device, self.active, candidate, files)


def _given(budget: Budget) -> dict[str, float]:
    return {key: value for key, value in msgspec.structs.asdict(budget).items() if value is not None}


@pytest.fixture
def stage(make_server: Callable[..., Device], monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    yield Stage(make_server(), monkeypatch)


def test_whoever_is_second_in_a_row_and_finds_the_caches_warm_has_no_advantage(stage):
    """Each one's inference right after another of its own takes half; the two releases are the same."""
    stage.budgets["candidate"] = Budget(latency_ratio=1.05)

    def taken(who: str) -> Script:
        return lambda _: 1.0 if stage.log[-1] == who else 2.0

    stage.latency = {"active": taken("a"), "candidate": taken("c")}
    proof = stage.run()
    assert proof.passed and (proof.ratio_low, proof.ratio_high) == pytest.approx((1.0, 1.0))


def two_modes(low: float, high: float) -> Script:
    """Half of all rounds take ``low``, half ``high``: the median is neither."""
    return lambda number: low if number // 4 % 2 else high


def test_the_order_is_active_candidate_candidate_active_and_then_exchanged(stage):
    stage.budgets["candidate"] = Budget(latency_ratio=1.2)
    assert stage.run().passed
    asked = [each for each in stage.log if len(each) == 1]
    assert "".join(asked) == "accacaac" * (LOOKS[0] // 4)


def test_an_interval_that_holds_the_limit_waits_for_more_pairs_and_then_defers(stage):
    stage.budgets["candidate"] = Budget(latency_ratio=1.2)
    stage.latency["candidate"] = two_modes(2.0, 3.0)
    proof = stage.run()
    assert proof.deferred and not proof.passed and proof.pairs == LOOKS[-1]
    assert (proof.ratio_low, proof.ratio_high) == pytest.approx((1.0, 1.5))


def test_an_absolute_limit_within_the_interval_defers_too(stage):
    stage.budgets["candidate"] = Budget(latency_p99_ms=5.0)
    stage.latency["candidate"] = lambda number: 9.0 if number % 100 == 0 else 2.0
    proof = stage.run()
    assert proof.deferred and "p99 latency is 2 to 9 ms, the budget is 5 ms" in proof.reasons[0]


def test_breaking_the_absolute_budget_fails_where_the_active_release_keeps_its_own(stage):
    stage.budgets = {"active": Budget(latency_p99_ms=5.0), "candidate": Budget(latency_p99_ms=5.0)}
    stage.latency["candidate"] = lambda _: 9.0
    proof = stage.run()
    assert not proof.passed and not proof.deferred and len(proof.reasons) == 1


@pytest.mark.parametrize("how", ["slow too", "golden cases", "memory", "dies"])
def test_a_sick_active_release_is_named_and_the_new_one_not_blamed(stage, how):
    stage.budgets = {"active": Budget(latency_p99_ms=5.0, memory_bytes=100), "candidate": Budget(latency_p99_ms=5.0)}
    stage.latency["candidate"] = lambda _: 9.0
    if how == "slow too":
        stage.latency["active"] = lambda _: 8.0
    elif how == "golden cases":
        stage.verdict["active"] = msgspec.structs.replace(AGREED, passed=False, reasons=("2 of 6 disagree",))
    elif how == "memory":
        stage.memory["active"] = 101
    else:
        stage.dies["active"] = 30
    proof = stage.run()
    assert proof.deferred and not proof.passed
    assert "the active release" in proof.reasons[1] and "not blamed" in proof.reasons[1]


@pytest.mark.parametrize("how", ["slow", "dies"])
def test_a_sick_active_release_is_no_measure_for_the_ratio(stage, how):
    """The new one takes twice the other's time, and the other is over its own budget already, or dies at it."""
    stage.budgets = {"active": Budget(latency_p99_ms=5.0), "candidate": Budget(latency_ratio=1.2, latency_p99_ms=20.0)}
    stage.latency = {"active": lambda _: 6.0, "candidate": lambda _: 12.0}
    if how == "dies":
        stage.dies["active"] = 50
    proof = stage.run()
    assert proof.passed and "so the ratio to its latency was not judged" in proof.notes[0]


def test_a_candidate_that_dies_while_it_is_timed_is_to_blame(stage):
    stage.budgets["candidate"] = Budget(latency_ratio=1.2)
    stage.dies["candidate"] = 50
    proof = stage.run()
    assert not proof.passed and not proof.deferred and "died" in proof.reasons[0]


def test_a_busy_device_is_not_held_against_the_release(stage):
    stage.budgets["candidate"] = Budget(latency_p99_ms=5.0)
    stage.latency["candidate"], stage.waited = (lambda _: 9.0), 6.0
    proof = stage.run()
    assert proof.deferred and "waiting for a CPU" in proof.reasons[0]


def test_an_exclusive_accelerator_is_had_by_one_at_a_time_with_the_declared_gap(stage):
    stage.exclusive = True
    stage.budgets["candidate"] = Budget(latency_ratio=1.2)
    proof = stage.run()
    assert proof.passed and proof.pairs == LOOKS[0]
    turns = [each.split()[0] for each in stage.log if len(each) > 1]
    assert turns == ["open", "close"] * (len(turns) // 2)
    opened = [each.split()[1] for each in stage.log if each.startswith("open")]
    assert opened == ["candidate", "active", "candidate", "candidate", "active", "candidate"]
    assert stage.naps.count(Gate().exclusive_gap_s) == 4


def test_where_memory_holds_one_only_they_are_measured_one_after_the_other(stage, tmp_path):
    stage.budgets["candidate"] = Budget(latency_ratio=1.2, memory_bytes=200_000_000)
    files, looks = machine(tmp_path / "machine", available_kib=300_000), 0
    real = files.text

    def text(path: str, most_bytes: int = 65536) -> str:
        nonlocal looks
        if path == "/proc/meminfo":
            looks += 1
            return real(path, most_bytes).replace("300000", "300000" if looks == 1 else "100000")
        return real(path, most_bytes)

    files.text = text  # type: ignore[method-assign]  # the memory that the candidate has taken by the second look
    proof = stage.run(files)
    assert proof.passed and proof.pairs == LOOKS[0]
    assert stage.log.index("close candidate") < stage.log.index("open active")


def test_what_is_taken_while_it_gets_hot_does_not_count():
    hot = iter(["", "too hot", "", ""] + [""] * 1000)
    bench = Bench(Gate(), lambda: next(hot))
    seen = Worker(lambda number: 99.0 if number < 20 else 2.0, [], "c")
    asyncio.run(bench.alone(seen, 40))  # type: ignore[arg-type]  # a double
    assert set(bench.pace.candidate_ms) == {2.0}


def test_a_gate_that_takes_too_long_is_given_up():
    bench = Bench(Gate(most_seconds=1e-9), lambda: "")
    with pytest.raises(NotMeasured, match="most_seconds"):
        asyncio.run(bench.alone(Worker(lambda _: 2.0, [], "c"), 40))  # type: ignore[arg-type]  # a double


def test_waiting_for_a_device_to_cool_ends():
    bench = Bench(Gate(cool_wait_s=0.01), lambda: "it is hot")
    with pytest.raises(NotMeasured, match="it is hot"):
        asyncio.run(bench.alone(Worker(lambda _: 2.0, [], "c"), 40))  # type: ignore[arg-type]  # a double
