"""Whole runs under each optimiser: culls and resumptions are exact, and what grows learns beside its originals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from esper.kasmina.executor import SeedExecutor
from esper.tolaria.config import OPTIMIZERS, TrainConfig
from esper.tolaria.export import load_network
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.record.observer import Observers
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trainer import Trainer
from esper.tolaria.trial import try_host
from tests.drilled import drilled
from tests.unit.tolaria.scripted_control import Script, ScriptedControl, cull, fetch_artifact, germination, keep
from tests.unit.tolaria.test_trainer import CONFIG, CULLED, KEPT, KilledError, Recorder

SPAN, RESIDUAL, STACK = "span_linear:fc1-fc2", "residual_linear:act1-act1", "stack:blocks"
RULED = replace(CONFIG, weight_decay=0.1, decay_rule="matrices", lr=0.01)
DECODER = TrainConfig(
    data="pytext",
    model="transformer",
    samples=400,
    context=16,
    width=16,
    heads=2,
    batch_size=16,
    steps=40,
    weight_decay=0.1,
    decay_rule="matrices",
    min_samples=8,
    min_documents=2,
    evaluate_every_steps=4,
    checkpoint_every_epochs=0,
)


def run(config: TrainConfig, control: Any = None, **options: Any) -> tuple[dict[str, Any], SeedExecutor]:
    prepared = prepare(config, fetch_artifact)
    chosen = NullControl() if control is None else control
    observer, resume = options.pop("observer", Observers()), options.pop("resume", False)
    trainer = Trainer(prepared, lambda opening: chosen, observer, **options)
    return trainer.train(resume=resume), prepared.executor


# Of each kind of state one: none but momentum, sums, factors, several kinds of parameters.
TOLD_APART = ("sgd", "adagrad", "adafactor", "muon")


@pytest.mark.parametrize("optimizer", drilled(OPTIMIZERS, lambda optimizer: optimizer in TOLD_APART))
def test_a_cull_is_exact_under_every_optimizer(optimizer: str) -> None:
    config = replace(RULED, optimizer=optimizer, clip_norm=0.5)
    try_host(prepare(config))
    culled, never = run(config, ScriptedControl(CULLED))[0], run(config)[0]
    assert len(culled["seeds"]) == 2
    assert culled["weights_digest"] == never["weights_digest"]


@pytest.mark.parametrize(
    ("optimizer", "schedule", "kept"),
    [
        pytest.param("rmsprop", "cosine", [13, 5], marks=pytest.mark.slow),
        ("adagrad", "constant", [13, 5]),
        pytest.param("nadam", "wsd", [13, 5], marks=pytest.mark.slow),
        ("muon", "cosine", [13, 5]),
        pytest.param("adafactor", "cosine", [5, 5], marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_that_resumes_ends_with_the_same_weights(
    tmp_path: Path, optimizer: str, schedule: str, kept: list[int]
) -> None:
    config, store = replace(RULED, optimizer=optimizer, schedule=schedule), CheckpointStore(tmp_path, keep=2)
    whole = run(config, ScriptedControl(KEPT))[0]
    assert whole["final_widths"] == kept
    for kill_at, resume in ((23, False), (45, True)):
        with pytest.raises(KilledError):
            run(config, ScriptedControl(KEPT), observer=Recorder(kill_at), store=store, resume=resume)
    resumed = run(config, ScriptedControl(KEPT), store=store, resume=True)[0]
    assert resumed["weights_digest"] == whole["weights_digest"]


def test_a_seed_that_stays_a_module_says_why_before_the_run_and_once_in_it_and_in_its_summary() -> None:
    config, control, recorder = replace(CONFIG, optimizer="adafactor"), ScriptedControl(KEPT), Recorder()
    why = "optimiser Adafactor remembers row_var of shape [2, 1] for a parameter [2, 3], which can't be joined"
    assert f"stays a module beside its layers: {why}" in " ".join(prepare(config).doubts)
    summary = run(config, control, observer=recorder)[0]
    told = [notice.message for notice in recorder.notices if notice.name == "tolaria.seed_unfolded"]
    assert told == [f"seed s1: kept as a module: {why}"]
    assert [seed["unfolded_because"] for seed in summary["seeds"] if seed["seed_id"] == "s1"] == [
        f"kept as a module: {why}"
    ]


def test_a_language_model_that_grows_in_depth_is_not_told_of_spans() -> None:
    told = "stays a module"
    assert told not in " ".join(prepare(replace(DECODER, optimizer="adafactor")).doubts)
    assert told in " ".join(prepare(replace(DECODER, optimizer="adafactor", blueprints=("span.linear",))).doubts)


def lazy(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Its layers learn their sizes from the first samples."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, outputs))


def test_a_network_is_exported_with_groups_that_depend_on_its_shapes(tmp_path: Path) -> None:
    config = replace(RULED, model=f"{__name__}:lazy", hidden=(), dropout=0.0, optimizer="muon", run_dir=tmp_path)
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)
    digest = run(config, store=store)[0]["weights_digest"]
    assert load_network(tmp_path).arm.digest() == digest


def decays(executor: SeedExecutor) -> Iterator[tuple[str, int, float, bool]]:
    """Every parameter's name, dimensions and weight decay, and whether AdamW has it."""
    arm = executor.arm
    groups = {id(member): group for group in arm.optimizer.param_groups for member in group["params"]}
    named = [("", arm.model), *((f"{graft.seed_id}:", graft.module) for graft in arm.grafts)]
    for prefix, module in named:
        for name, parameter in module.named_parameters():
            group = groups[id(parameter)]
            yield prefix + name, parameter.dim(), group["weight_decay"], "betas" in group


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("config", "script", "new"),
    [
        (RULED, {4: germination("s1", SPAN)}, 3),
        (RULED, {4: germination("s1", SPAN), 24: keep("s1")}, 0),
        (RULED, {4: germination("s1", RESIDUAL, "residual.linear")}, 6),
        (DECODER, {4: germination("s1", STACK, "stack.double")}, 24),
        (DECODER, {4: germination("s1", STACK, "stack.double"), 16: cull("s1")}, 0),
    ],
    ids=["span", "kept span", "residual", "stack", "undone stack"],
)
def test_what_grows_joins_the_groups_of_its_originals(
    config: TrainConfig, script: Script, new: int, optimizer: str
) -> None:
    chosen = replace(config, optimizer=optimizer, checkpoint_every_epochs=0)
    before = list(decays(prepare(chosen).executor))
    recorder = Recorder()
    grown = run(chosen, ScriptedControl(script), observer=recorder, should_stop=lambda: len(recorder.steps) >= 28)
    after = list(decays(grown[1]))
    assert len(after) == len(before) + new
    for name, dimensions, decay, is_adamw in after:
        is_matrix = dimensions == 2 and not name.startswith(("tokens", "positions"))
        is_output = name.startswith(("head", "fc3"))
        assert decay == (0.1 if is_matrix else 0.0), name
        assert is_adamw is (optimizer == "adamw" or is_output or not is_matrix), name
