"""A dry run tries everything that a run needs and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.dry_run import _cost_line, dry_run
from esper.tolaria.export import writing
from esper.tolaria.run_dir import RunOptions
from esper.tolaria.task.prepare import prepare

OPTIONS = RunOptions()


@pytest.fixture(autouse=True)
def _without_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ESPER_LEYLINE_SECRET", "ESPER_KEYRING"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fresh process that loads what was exported, for what is not about it."""
    monkeypatch.setattr(writing, "disproof", lambda *given: "")


def config(tmp_path: Path, **fields: Any) -> TrainConfig:
    return TrainConfig(run_dir=tmp_path / "run", samples=600, min_samples=50, epochs=3, **fields)


def test_it_says_what_the_run_would_be_and_writes_nothing(tmp_path: Path) -> None:
    lines = dry_run(config(tmp_path, grow="never"), OPTIONS).splitlines()
    assert lines == [
        "data: digits, 384 train, 119 judge, 97 test",
        "task: classification, 10 classes, smallest 37",
        "model: mlp, 502 parameters, 18 steps on cpu",
        "one step: done",
        "checkpoint: read back, and goes on to the same weights",
        "export: float32 [rows, 64] (samples of 1 x 8 x 8, reshaped) -> [rows, 10], "
        "proven without Esper with 1, 2 and 7 rows",
        "everything works; nothing was written to the run directory",
    ]
    assert list(tmp_path.iterdir()) == []


def test_the_cost_that_a_budget_is_a_multiple_of_is_told(tmp_path: Path) -> None:
    """64-6-6-10: the pass forward, gradients of all weights, and of the inputs of all layers but the first."""
    run = prepare(config(tmp_path))
    forward, inputs = 64 * 6 + 6 * 6 + 6 * 10, 6 * 6 + 6 * 10
    cost = (2 * forward + inputs) * run.config.batch_size * 18
    assert _cost_line(run).startswith(f"cost: about {cost:.3g} multiply-accumulates if nothing grows")


@pytest.mark.usefixtures("unproven")
def test_it_warns_of_what_the_data_gives_cause_to_doubt(tmp_path: Path) -> None:
    few = TrainConfig(run_dir=tmp_path / "run", samples=30, batch_size=8, grow="never")
    warnings = [line for line in dry_run(few, OPTIONS).splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "a single training sample" in warnings[0]


@pytest.mark.usefixtures("unproven")
def test_it_opens_and_closes_the_run_at_real_services(tmp_path: Path) -> None:
    lines = dry_run(config(tmp_path), OPTIONS).splitlines()
    assert "slot: span_linear:fc1-fc2, width 6" in lines
    assert "copies of the model: learn as it does, and neither reaches the other" in lines
    for name in ("weatherlight", "tamiyo", "kasmina"):
        assert any(line.startswith(f"service: {name} at unix:") for line in lines)
    assert "run: signed, opened at generation 1, 1 open at Kasmina, closed" in lines
    assert lines[-2].startswith("export: float32 [rows, 64]")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"blueprints": ("span.conv",)}, "fits none of the host's slots"),
        ({"blueprints": ("absent",)}, "there is no such blueprint"),
        (
            {"blueprints": ("span.linear", "control.random_frozen", "residual.linear")},
            "blueprints = 'control.random_frozen': gets no slot: residual.linear, span.linear take all that it fits",
        ),
        ({"slots": ("absent",)}, "the host calls no submodule 'absent'"),
        ({"data": "absent"}, "expected digits"),
        ({"kasmina": "127.0.0.1:1"}, "ESPER_LEYLINE_SECRET"),
    ],
)
def test_what_doesnt_fit_is_said_before_anything_starts(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        dry_run(config(tmp_path, **fields), OPTIONS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unproven")
def test_a_directory_that_holds_a_run_is_refused_unless_it_is_meant(tmp_path: Path) -> None:
    there = config(tmp_path, grow="never")
    there.run_dir.mkdir()
    (there.run_dir / "events.jsonl").write_text('{"kind": "run"}\n')
    with pytest.raises(ConfigError, match="holds a run already"):
        dry_run(there, OPTIONS)
    assert "everything works" in dry_run(there, RunOptions(overwrite=True))
    assert (there.run_dir / "events.jsonl").read_text() == '{"kind": "run"}\n'


HOSTS = "tests.unit.tolaria.task.foreign_hosts"


@pytest.mark.usefixtures("unproven")
def test_it_says_which_parts_are_compiled(tmp_path: Path) -> None:
    lines = dry_run(config(tmp_path, grow="never", model=f"{HOSTS}:compiled"), OPTIONS).splitlines()
    assert "compiled: the whole host" in lines


@pytest.mark.usefixtures("unproven")
def test_a_host_that_will_not_be_watched_makes_its_step_where_nothing_is_to_grow(tmp_path: Path) -> None:
    lines = dry_run(config(tmp_path, grow="never", model=f"{HOSTS}:unwilling"), OPTIONS).splitlines()
    assert "one step: done" in lines
    with pytest.raises(ConfigError, match="looking for slots ended in LookupError: I will not be watched"):
        dry_run(config(tmp_path, model=f"{HOSTS}:unwilling"), OPTIONS)


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize("run_id", ["lab/7", ".."])
def test_a_run_may_have_a_name_that_is_no_file_name(tmp_path: Path, run_id: str) -> None:
    assert "run: signed, opened" in dry_run(config(tmp_path, run_id=run_id), OPTIONS)
