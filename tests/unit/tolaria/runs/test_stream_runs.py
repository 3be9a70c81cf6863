"""Runs on a stream of text: a decoder learns from it, a killed run resumes exactly, an epoch is so many steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.growable import check_growth
from esper.tolaria.launcher import main
from esper.tolaria.record.observer import EpochDone, Observer, Observers, StepDone
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.scripted_control import ScriptedControl, cull, fetch_artifact, germination, judgement

WORDS = ("the", "seed", "grows", "where", "a", "host", "is", "narrow", "and", "twin", "judges", "it")
SLOT = "span_linear:blocks.0.mlp.fc1-blocks.0.mlp.fc2"
GROWTH = {4: [*germination("s1", SLOT), judgement("s1", 16)], 20: cull("s1")}


class KilledError(Exception):
    """Stands for kill -9."""


class Watcher(Observer):
    """Keeps the epochs, and may kill the run."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.epochs: list[EpochDone] = []

    def on_steps(self, steps: Sequence[StepDone]) -> None:
        if any(done.step == self.kill_at for done in steps):
            raise KilledError

    def on_epoch(self, done: EpochDone) -> None:
        self.epochs.append(done)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty documents of sentences in no order."""
    draw = np.random.default_rng(0)
    (tmp_path / "text").mkdir()
    for number in range(60):
        (tmp_path / "text" / f"{number}.txt").write_text(" ".join(draw.choice(WORDS, 300)))
    return tmp_path / "text"


@pytest.fixture
def config(folder: Path) -> TrainConfig:
    return TrainConfig(
        data=f"text:{folder}",
        context=16,
        batch_size=8,
        model="transformer",
        depth=2,
        width=16,
        heads=2,
        positions="rotary",
        norm="rms",
        tied=True,
        dropout=0.1,
        steps=30,
        steps_per_epoch=12,
        min_samples=50,
        min_documents=5,
        evaluate_every_steps=4,
        checkpoint_every_epochs=1,
    )


def run(config: TrainConfig, observer: Observer, store: CheckpointStore | None = None, **how: Any) -> dict[str, Any]:
    control = ScriptedControl(GROWTH)
    return Trainer(prepare(config, fetch_artifact), lambda opening: control, observer, store=store).train(**how)


def test_a_decoder_on_a_folder_of_text_trains_and_its_loss_falls(folder: Path, tmp_path: Path) -> None:
    flags = ["--model", "transformer", "--depth", "3", "--width", "96", "--heads", "3", "--context", "32"]
    flags += ["--steps", "60", "--batch-size", "8", "--grow", "never", "--plain", "--run-dir", str(tmp_path / "run")]
    assert main(["--data", f"text:{folder}", *flags]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    # The characters' own frequencies alone would leave 2.53 nats.
    assert summary["test_loss"] < 2.2
    assert summary["splits"]["judge"] > 300


def test_a_run_on_a_stream_that_is_killed_beside_its_twin_resumes_to_the_same_weights(
    tmp_path: Path, config: TrainConfig
) -> None:
    whole = run(config, Observers())
    store = CheckpointStore(tmp_path / "saved", keep=2)
    with pytest.raises(KilledError):
        run(config, Watcher(kill_at=19), store)
    resumed = run(config, Observers(), store, resume=True)
    same = ("weights_digest", "val_loss", "test_loss", "training_macs_by_use", "data_digest")
    assert {name: resumed[name] for name in same} == {name: whole[name] for name in same}


def test_an_epoch_of_a_stream_is_the_stated_number_of_steps(config: TrainConfig) -> None:
    watcher = Watcher()
    summary = run(config, watcher)
    # The run ends within an epoch, and its end is told with figures of the final network.
    assert [done.step for done in watcher.epochs] == [12, 24, 30]
    assert (summary["steps"], summary["epochs"]) == (30, 2)
    assert prepare(replace(config, steps=None, epochs=3)).total_steps == 36


def test_a_run_on_tokens_gives_logits_for_its_vocabulary(tmp_path: Path, config: TrainConfig) -> None:
    np.random.default_rng(0).integers(0, 40, 60_000).astype("<u2").tofile(tmp_path / "train.bin")
    prepared = prepare(replace(config, data=f"tokens:{tmp_path / 'train.bin'}", vocabulary=50))
    assert prepared.splits.outputs == 50
    assert prepared.executor.arm.model.head.out_features == 50
    assert len(prepared.manifest().slots) > 0


def test_a_text_too_short_for_the_judging_set_is_one_clear_line(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="the judging set has only") as caught:
        check_growth(prepare(replace(config, min_samples=4000)))
    assert "\n" not in str(caught.value)


def test_a_text_of_too_few_documents_is_one_clear_line_that_names_the_mark(config: TrainConfig) -> None:
    found = prepare(config).splits.judge.document_count
    assert found is not None
    with pytest.raises(ConfigError, match=f"are of only {found} documents.*--document-mark") as caught:
        check_growth(prepare(replace(config, min_documents=found + 1)))
    assert "\n" not in str(caught.value)
    check_growth(prepare(replace(config, min_documents=found)))


def test_the_summary_names_the_unit_by_which_it_judges(config: TrainConfig) -> None:
    summary = run(config, Observers())
    documents = prepare(config).splits.judge.document_count
    assert summary["judging"] == {"unit": "document", "samples": summary["splits"]["judge"], "documents": documents}
    assert f"judged by {documents} documents" in summary["task"]
