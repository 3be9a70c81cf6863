"""Whole runs whose two arms don't fit: bursts end as live twins do, also killed and resumed; a graft gives way."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from esper.core.errors import StepFailed
from esper.kasmina.executor.memory.forecast import BY_NOTHING
from esper.kasmina.executor.memory.free import Free
from esper.kasmina.executor.memory.meter import Meter
from esper.kasmina.executor.memory.parked import tensors
from esper.kasmina.executor.memory.peaks import Peaks
from esper.kasmina.executor.state import ExecutorState
from esper.leyline import SeedDirective
from esper.tolaria.config import TrainConfig
from esper.tolaria.record.observer import Observer, Observers, StepDone
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.prepare import Prepared, prepare
from esper.tolaria.trainer import Trainer
from tests.unit.kasmina.executor.memory.test_peaks import FakeGauge
from tests.unit.tolaria.scripted_control import Script, ScriptedControl, cull, directive, fetch_artifact, germination

SLOT = "stack:blocks"
SAME = ("weights_digest", "val_loss", "test_loss", "training_macs_by_use", "final_parameters")


def evaluations(seed_id: str) -> list[SeedDirective]:
    made = [directive(seed_id, "JUDGE", at_step=step, look=1) for step in (9, 13, 18)]
    for number, each in enumerate(made):
        each.directive_id += str(number)
    return made


STACK = [*germination("s1", SLOT, "stack.double"), *evaluations("s1")]
UNDONE: Script = {4: STACK, 20: cull("s1")}
KEPT: Script = {4: STACK, 20: [directive("s1", "DROP_TWIN")], 22: germination("s2", SLOT, "stack.part", blocks=1)}
UNFINISHED: Script = {4: STACK}


class KilledError(Exception):
    """Stands for kill -9."""


class Killer(Observer):
    def on_steps(self, steps: Sequence[StepDone]) -> None:
        if any(done.step >= 15 for done in steps):
            raise KilledError


class Greedy:
    """Runs out of memory in training passes of a given depth, as often as it is told: the same for every copy."""

    depth = 0
    left = 0

    def __call__(self, model: nn.Module, *_: object) -> None:
        if model.training and torch.is_grad_enabled() and len(model.blocks) == Greedy.depth and Greedy.left:  # type: ignore[arg-type]
            Greedy.left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nSee the documentation")


def greedy(model: nn.Module, arguments: object) -> None:
    Greedy()(model)


@pytest.fixture(autouse=True)
def _content() -> Iterator[None]:
    yield
    Greedy.left = 0


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    tmp_path = tmp_path_factory.mktemp("text")
    words = np.random.default_rng(0).choice(("the", "seed", "grows", "deeper", "than", "its", "twin"), 5000)
    (tmp_path / "text.txt").write_text(" ".join(words))
    return TrainConfig(
        data=f"text:{tmp_path / 'text.txt'}",
        context=16,
        batch_size=8,
        model="transformer",
        depth=2,
        width=16,
        heads=2,
        dropout=0.1,
        steps=30,
        steps_per_epoch=6,
        min_samples=50,
        evaluate_every_steps=2,
        checkpoint_every_epochs=1,
        run_dir=tmp_path / "run",
        device="cpu",
    )


def run(
    config: TrainConfig,
    script: Script,
    observer: Observer | None = None,
    *,
    change: Callable[[Prepared], object] = lambda prepared: None,
    **how: Any,
) -> Any:
    control, store = ScriptedControl(script), how.pop("store", None)
    prepared = prepare(config, fetch_artifact)
    change(prepared)
    trainer = Trainer(prepared, lambda opening: control, observer or Observers(), store=store)
    return trainer.train(**how), control


@cache
def undone(config: TrainConfig) -> Any:
    """A run that gives its stack up, made once for each settings."""
    return run(config, UNDONE)


@cache
def never_grown(config: TrainConfig) -> dict[str, Any]:
    summary: dict[str, Any] = run(replace(config, grow="never"), {})[0]
    return summary


def evidence(control: ScriptedControl) -> list[bytes]:
    return [
        found.SerializeToString(deterministic=True)
        for collected in control.collected
        for observation in collected.observations
        for found in observation.evaluations
    ]


def notes(control: ScriptedControl) -> list[tuple[str, str, int]]:
    return [(note.seed_id, note.mode, note.step) for collected in control.collected for note in collected.memory]


@pytest.mark.parametrize(
    ("script", "changes"),
    [
        (UNDONE, {}),
        pytest.param(KEPT, {}, marks=pytest.mark.slow),
        pytest.param(UNFINISHED, {}, marks=pytest.mark.slow),
        pytest.param(UNDONE, {"optimizer": "sgd", "clip_norm": 0.5, "control": "sync"}, marks=pytest.mark.slow),
        pytest.param(KEPT, {"accumulate": 4, "pcgrad": True}, marks=pytest.mark.slow),
    ],
)
def test_bursts_end_in_the_same_bits_the_same_evidence_and_the_same_account(
    config: TrainConfig, script: Script, changes: dict[str, Any]
) -> None:
    (live, heard_live), (bursts, heard) = (
        undone(each) if script is UNDONE else run(each, script)
        for each in (replace(config, twin=twin, **changes) for twin in ("live", "bursts"))
    )
    assert {name: bursts[name] for name in SAME} == {name: live[name] for name in SAME}
    assert evidence(heard) == evidence(heard_live)
    assert live["memory"]["twins"][0]["mode"] == "live"
    assert bursts["memory"]["twins"][0]["mode"] == "bursts"
    assert bursts["reproducible"]


def test_the_grown_arm_keeps_the_gradients_that_signals_are_made_of(config: TrainConfig) -> None:
    live, bursts = (undone(replace(config, twin=twin))[1] for twin in ("live", "bursts"))
    assert [c.slots for c in bursts.collected] == [c.slots for c in live.collected]


@pytest.mark.parametrize(
    "again", ["bursts", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("live", "auto"))]
)
def test_a_run_in_bursts_that_is_killed_goes_on_also_with_a_live_twin(
    tmp_path: Path, config: TrainConfig, again: str
) -> None:
    whole, heard = undone(replace(config, twin="live"))
    store = CheckpointStore(tmp_path / "saved", keep=2)
    with pytest.raises(KilledError):
        run(replace(config, twin="bursts"), UNDONE, Killer(), store=store)
    state = store.newest().state
    assert state["executor"]["pace"]["mode"] == "bursts"
    assert state["executor"]["pace"]["steps_made"] == state["progress"]["step"] == 12
    resumed, heard_again = run(replace(config, twin=again), UNDONE, store=store, resume=True)
    assert {name: resumed[name] for name in SAME} == {name: whole[name] for name in SAME}
    assert evidence(heard_again)[-1] == evidence(heard)[-1]
    assert [twin["mode"] for twin in resumed["memory"]["twins"]] == ["bursts"]


def test_a_grown_network_that_runs_out_of_memory_is_the_never_grown_one_again(config: TrainConfig) -> None:
    def exhaust(prepared: Prepared) -> None:
        prepared.executor.arm.model.register_forward_pre_hook(greedy)
        Greedy.depth, Greedy.left = 4, 1

    never = never_grown(config)
    for twin in ("live", "bursts"):
        grown, heard = run(replace(config, twin=twin), UNDONE, change=exhaust)
        assert Greedy.left == 0
        assert grown["weights_digest"] == never["weights_digest"]
        assert grown["test_loss"] == never["test_loss"]
        (told,) = grown["memory"]["twins"]
        assert (told["mode"], told["became"]) == (twin, "undone")
        assert "memory ran out in step 7: CUDA out of memory; the network is again" in told["became_why"]
        assert not grown["reproducible"]
        assert grown["reproducible_cause"] == "s1 was undone for lack of memory at step 6"
        reports = [report for collected in heard.collected for report in collected.reports]
        failed = [report for report in reports if "memory ran out" in report.failure]
        assert [report.directive_id for report in failed] == ["s1:undone"]
        assert next(report for report in reports if report.directive_id == "s1:INSTALL_TWIN").succeeded


def test_a_later_step_that_runs_out_of_memory_undoes_the_stack_too(config: TrainConfig) -> None:
    class Late(Observer):
        def on_steps(self, steps: Sequence[StepDone]) -> None:
            Greedy.left = int(any(done.step >= 14 for done in steps))

    def prepare_host(prepared: Prepared) -> None:
        prepared.executor.arm.model.register_forward_pre_hook(greedy)
        Greedy.depth = 4

    never = never_grown(config)
    grown, heard = run(replace(config, twin="bursts"), UNDONE, Late(), change=prepare_host)
    assert grown["weights_digest"] == never["weights_digest"]
    assert len(evidence(heard)) == 2


def test_a_live_twin_that_runs_out_of_memory_waits_from_then_on(config: TrainConfig) -> None:
    def exhaust(prepared: Prepared) -> None:
        model = prepared.executor.arm.model
        model.register_buffer("seen", torch.zeros(()))
        model.register_forward_pre_hook(count)
        model.register_forward_pre_hook(greedy)

    class Late(Observer):
        def on_steps(self, steps: Sequence[StepDone]) -> None:
            Greedy.depth, Greedy.left = 2, int(any(done.step == 8 for done in steps))

    smooth, heard_smooth = run(replace(config, twin="live"), UNDONE, change=counting)
    bumpy, heard = run(replace(config, twin="live"), UNDONE, Late(), change=exhaust)
    assert Greedy.left == 0
    assert {name: bumpy[name] for name in SAME} == {name: smooth[name] for name in SAME}
    assert evidence(heard) == evidence(heard_smooth)
    (told,) = bumpy["memory"]["twins"]
    assert (told["mode"], told["became"]) == ("live", "bursts")
    assert "ran out of memory while both were live" in told["became_why"]


def count(model: nn.Module, arguments: object) -> None:
    if model.training:
        model.seen += 1  # type: ignore[operator]


def counting(prepared: Prepared) -> None:
    prepared.executor.arm.model.register_buffer("seen", torch.zeros(()))
    prepared.executor.arm.model.register_forward_pre_hook(count)


def test_without_a_graft_to_give_up_the_run_ends_as_it_did(config: TrainConfig) -> None:
    def exhaust(prepared: Prepared) -> None:
        prepared.executor.arm.model.register_forward_pre_hook(greedy)
        Greedy.depth, Greedy.left = 2, 1

    with pytest.raises((torch.OutOfMemoryError, StepFailed)):
        run(replace(config, grow="never"), {}, change=exhaust)


def with_free(size_bytes: int) -> Callable[[Prepared], None]:
    """A device that has so much to give."""

    def change(prepared: Prepared) -> None:
        state = prepared.executor._state
        state.config = replace(state.config, free_memory=lambda device: Free(size_bytes, "a small device"))

    return change


def test_a_graft_without_room_is_refused_in_one_line_and_costs_the_run_nothing(config: TrainConfig) -> None:
    never = never_grown(config)
    grown, heard = run(config, UNDONE, change=with_free(1000))
    assert grown["weights_digest"] == never["weights_digest"]
    (told,) = grown["memory"]["twins"]
    assert told["mode"] == "refused"
    assert told["predicted_bytes"] > told["free_bytes"]
    assert "the grown network alone needs" in told["why"]
    assert "judging passes up to 512 samples at once" in told["why"]
    failed = [r for collected in heard.collected for r in collected.reports if not r.succeeded]
    assert {r.directive_id for r in failed} >= {"s1:SNAPSHOT_TWIN", "s1:ATTACH"}
    assert all("no room for a twin" in r.failure and "\n" not in r.failure for r in failed)
    assert not grown["reproducible"]


class Watched:
    """Counts what the run's own arm held when its twin was made, and everything that came until the twin was gone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.peak = 0
        self._meter = Meter()
        begin, end = ExecutorState.begin_twin_phase, ExecutorState.end_twin_phase

        def begins(state: ExecutorState) -> None:
            begin(state)
            self._meter.__enter__()
            for tensor in tensors(state.arm):
                self._meter._note(tensor, is_new=True)

        def ends(state: ExecutorState) -> int | None:
            self._meter.__exit__(None, None, None)
            self.peak = self._meter.peak_bytes
            return end(state)

        monkeypatch.setattr(ExecutorState, "begin_twin_phase", begins)
        monkeypatch.setattr(ExecutorState, "end_twin_phase", ends)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 128, "depth": 4},
        {"width": 32, "batch_size": 64, "context": 32},
        pytest.param({"width": 128, "depth": 4, "optimizer": "sgd"}, marks=pytest.mark.slow),
        pytest.param({"width": 32, "batch_size": 128, "context": 32, "accumulate": 2}, marks=pytest.mark.slow),
        pytest.param({"width": 32, "batch_size": 64, "context": 32, "amp": "bf16"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_no_pass_of_a_twins_time_takes_more_than_was_foreseen(
    config: TrainConfig, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proofs, counts, probes and evaluations included: whatever takes the most must have been foreseen."""
    watched = Watched(monkeypatch)
    summary, _ = run(replace(config, twin="live", dropout=0.0, checkpoint_every_epochs=0, **changes), UNDONE)
    ratio = told_of(summary)["predicted_bytes"] / watched.peak
    assert 1.0 <= ratio < 1.1


HELD, A_BLOCK = 10**6, 10**5
GAUGE = FakeGauge(HELD)


def use_gauge(model: nn.Module, arguments: object) -> None:
    """A training pass takes so much for each block, any other pass a hundred times that."""
    is_training = model.training and torch.is_grad_enabled()
    GAUGE.use(len(model.blocks) * A_BLOCK * (1 if is_training else 100))  # type: ignore[arg-type]


def gauged(prepared: Prepared) -> None:
    GAUGE.held = GAUGE.highest = HELD
    prepared.executor._state.peaks = Peaks(GAUGE)
    prepared.executor.arm.model.register_forward_pre_hook(use_gauge)


def test_a_forecast_is_set_right_by_training_steps_of_the_very_network(config: TrainConfig) -> None:
    summary, _ = run(replace(config, twin="live"), KEPT, change=gauged)
    first, second = summary["memory"]["twins"]
    gradients = [2 * A_BLOCK, 4 * A_BLOCK]
    assert all("as its allocator counted them" in twin["calibrated_by"] for twin in (first, second))
    taken = [twin["measured_step_bytes"] for twin in (first, second)]
    assert [size // A_BLOCK for size in taken] == [size // A_BLOCK for size in gradients]
    assert summary["memory"]["peak_bytes_without_twin"] > HELD + 100 * A_BLOCK


def test_a_resumed_run_goes_by_its_own_steps_and_says_so_before_it_has_made_them(
    tmp_path: Path, config: TrainConfig
) -> None:
    script: Script = {12: STACK}
    whole, _ = run(config, script, change=gauged)
    assert "as its allocator counted them" in told_of(whole)["calibrated_by"]
    store = CheckpointStore(tmp_path / "saved", keep=2)
    with pytest.raises(KilledError):
        run(config, script, Killer(), store=store, change=gauged)
    resumed, _ = run(config, script, store=store, resume=True, change=gauged)
    told = told_of(resumed)
    assert told["step"] == 14
    assert (told["calibrated_by"], told["measured_step_bytes"], told["factor"]) == (BY_NOTHING, None, 1.0)
    assert resumed["weights_digest"] == whole["weights_digest"]


class ParametersAlive(FakeGauge):
    """An allocator of parameters alone: those that nobody wants count until they are collected."""

    def __init__(self) -> None:
        super().__init__(self.allocated())

    def allocated(self) -> int:
        return sum(found.nbytes for found in gc.get_objects() if type(found) is nn.Parameter)

    def peak(self) -> int:
        self.highest = max(self.highest, self.allocated())
        return self.highest

    def reset(self) -> None:
        self.highest = self.allocated()


@pytest.fixture
def late_collection() -> Iterator[None]:
    """Garbage in circles stays for as long as nobody asks for its collection."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("late_collection")
def test_an_arm_that_is_gone_is_in_no_peak_without_a_twin(config: TrainConfig) -> None:
    sizes: list[int] = []

    def change(prepared: Prepared) -> None:
        prepared.executor._state.peaks = Peaks(ParametersAlive())
        sizes.append(sum(parameter.nbytes for parameter in prepared.executor.arm.model.parameters()))

    memory = run(replace(config, twin="live"), UNDONE, change=change)[0]["memory"]
    assert memory["peak_bytes_with_twin"] - memory["peak_bytes_without_twin"] >= sizes[0], memory


@pytest.fixture
def on_gpu(config: TrainConfig, tmp_path: Path) -> TrainConfig:
    """A network of which weights and optimiser state are the most."""
    words = np.random.default_rng(0).choice(("the", "seed", "grows", "deeper", "than", "its", "twin"), 10_000)
    (tmp_path / "short.txt").write_text(" ".join(words))
    sizes = {"context": 64, "batch_size": 8, "depth": 4, "width": 1024, "heads": 8, "dropout": 0.0, "min_documents": 2}
    return replace(config, data=f"text:{tmp_path / 'short.txt'}", device="cuda", **sizes)


# One of which activations are the most.
BROAD = {"batch_size": 128, "context": 128, "width": 256}


@pytest.fixture
def small_device() -> Iterator[Callable[[int], None]]:
    """Lets this process have no more than so many bytes of the device."""

    def limit(size_bytes: int) -> None:
        clear_gpu()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(size_bytes / total)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def clear_gpu() -> None:
    """An earlier run holds itself in circles, and what it holds counts as other things' memory."""
    gc.collect()
    torch.cuda.empty_cache()


def run_alone(config: TrainConfig, script: Script, **how: Any) -> dict[str, Any]:
    """The summary of a run that has the device to itself."""
    clear_gpu()
    summary: dict[str, Any] = run(config, script, **how)[0]
    return summary


def told_of(summary: Any) -> dict[str, Any]:
    (told,) = summary["memory"]["twins"]
    return dict(told)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes",
    [{}, {"amp": "bf16"}, {"optimizer": "sgd"}, BROAD, {**BROAD, "amp": "bf16"}, {**BROAD, "accumulate": 4}],
    ids=str,
)
@pytest.mark.parametrize("twin", ["live", "bursts"])
def test_on_a_gpu_the_peak_is_what_was_foreseen(on_gpu: TrainConfig, twin: str, changes: dict[str, Any]) -> None:
    check_foreseen(replace(on_gpu, twin=twin, **changes))


def check_foreseen(config: TrainConfig) -> None:
    """Forecast, measurement and their parts are printed, so that a ratio beyond the bounds can be traced to one."""
    summary = run_alone(config, UNDONE)
    told, memory = told_of(summary), summary["memory"]
    for name, size in (told | {key: size for key, size in memory.items() if key != "twins"}).items():
        print(f"  {name}: {size:,}" if isinstance(size, int) else f"  {name}: {size}")
    ratio = told["predicted_bytes"] / told["measured_bytes"]
    print(f"  predicted / measured: {ratio:.3f}")
    assert 0.9 < ratio < 1.25, told
    assert told["measured_step_bytes"] is not None
    assert memory["unmeasured"] is None
    assert 0 < memory["peak_bytes_without_twin"] < memory["peak_bytes_with_twin"], memory


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("changes", [{"amp": "bf16"}, {"amp": "bf16", "dropout": 0.1}, {}], ids=str)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_on_a_gpu_the_peak_of_compiled_blocks_is_what_was_foreseen(
    on_gpu: TrainConfig, changes: dict[str, Any]
) -> None:
    check_foreseen(replace(on_gpu, twin="live", compile="blocks", **BROAD, **changes))


@pytest.mark.gpu
def test_on_a_gpu_bursts_and_live_twins_end_alike(on_gpu: TrainConfig) -> None:
    live, bursts, never = (
        run(each, script)[0]
        for each, script in (
            (replace(on_gpu, twin="live"), KEPT),
            (replace(on_gpu, twin="bursts"), KEPT),
            (replace(on_gpu, twin="bursts"), UNDONE),
        )
    )
    assert {name: bursts[name] for name in SAME} == {name: live[name] for name in SAME}
    assert never["weights_digest"] == run(replace(on_gpu, grow="never"), {})[0]["weights_digest"]
    assert bursts["memory"]["peak_bytes_with_twin"] < live["memory"]["peak_bytes_with_twin"]


@pytest.mark.gpu
@pytest.mark.timeout(300)
def test_on_a_gpu_too_small_for_two_arms_the_twin_steps_in_bursts_or_is_refused(
    on_gpu: TrainConfig, small_device: Callable[[int], None]
) -> None:
    never = run_alone(replace(on_gpu, grow="never"), {})
    roomy = told_of(run_alone(on_gpu, UNDONE))
    assert roomy["mode"] == "live"
    small_device((roomy["predicted_live_bytes"] + roomy["predicted_bursts_bytes"]) // 2 + roomy["other_bytes"])
    tight = run_alone(on_gpu, UNDONE)
    assert told_of(tight)["mode"] == "bursts"
    assert tight["weights_digest"] == never["weights_digest"]
    # The host alone has room, the grown network has none.
    alone = never["memory"]["peak_bytes_without_twin"]
    small_device((roomy["predicted_alone_bytes"] + roomy["other_bytes"] + alone) // 2)
    refused = run_alone(on_gpu, UNDONE)
    assert told_of(refused)["mode"] == "refused"
    assert refused["weights_digest"] == never["weights_digest"]


@pytest.mark.gpu
@pytest.mark.timeout(300)
@pytest.mark.parametrize("twin", ["live", "bursts"])
def test_on_a_gpu_a_forecast_that_was_wrong_costs_the_run_nothing(
    on_gpu: TrainConfig, small_device: Callable[[int], None], twin: str
) -> None:
    """The device claims more than it has, so that the grown network, or its twin, really runs out of memory."""
    never = run_alone(replace(on_gpu, grow="never"), {})
    roomy = told_of(run_alone(on_gpu, UNDONE))
    limit = roomy["predicted_alone_bytes"] + roomy["other_bytes"]
    became = None
    while became not in ("undone", "refused"):  # where even the host could not train, torch's own error ends this
        small_device(limit)
        told = told_of(grown := run_alone(replace(on_gpu, twin=twin), UNDONE, change=with_free(2**40)))
        became = told.get("became", told["mode"])
        print(limit, became, told.get("became_why"))
        assert grown["weights_digest"] == never["weights_digest"]
        limit -= limit // 10
    small_device((roomy["predicted_live_bytes"] + roomy["predicted_bursts_bytes"]) // 2 + roomy["other_bytes"])
    waiting = run_alone(replace(on_gpu, twin="live"), UNDONE, change=with_free(2**40))
    print({name: told_of(waiting).get(name) for name in ("mode", "became", "became_why")})
    assert waiting["weights_digest"] == never["weights_digest"]
