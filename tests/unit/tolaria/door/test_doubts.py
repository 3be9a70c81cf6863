"""What a person should look at is a warning at the line of the script, where nothing else would print it."""

from __future__ import annotations

import warnings
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

import esper
from tests.unit.tolaria.door.test_growth import Net, loader, step

NO_TEST_SET = "no test set was given"
SETTINGS: dict[str, Any] = {"steps": 4, "grow": "never", "min_samples": 20, "checkpoint_every_epochs": 0}


def by_train(run_dir: Path, **options: Any) -> None:
    parts = {"train": loader(), "judge": loader(60, 2, shuffle=False)}
    esper.train(Net(), parts, config=SETTINGS | {"run_dir": run_dir}, **options)


def by_growth(run_dir: Path, **options: Any) -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    config, judge = SETTINGS | {"run_dir": run_dir}, loader(60, 2, shuffle=False)
    with esper.Growth(model, optimizer, step=step, judge=judge, config=config, **options) as growth:
        for batch in growth.steps(loader()):
            optimizer.zero_grad()
            loss = step(model, batch).mean()
            loss.backward()
            optimizer.step()
            growth.note(loss)


DOORS = pytest.mark.parametrize("door", [by_train, by_growth])


@DOORS
def test_a_doubt_is_a_warning_at_the_line_that_called(door: Any, tmp_path: Path) -> None:
    with pytest.warns(esper.DoubtWarning, match=NO_TEST_SET) as told:
        door(tmp_path / "run")
    (doubt,) = [each for each in told if NO_TEST_SET in str(each.message)]
    assert doubt.filename == __file__
    line = Path(__file__).read_text().splitlines()[doubt.lineno - 1]
    assert "esper.train(" in line or "growth.steps(" in line


@DOORS
def test_a_display_prints_it_instead(door: Any, tmp_path: Path) -> None:
    shown = StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        door(tmp_path / "run", callbacks=[esper.Display(shown)])
    assert NO_TEST_SET in shown.getvalue()


@DOORS
def test_who_takes_warnings_for_errors_gets_one_before_the_first_step(door: Any, tmp_path: Path) -> None:
    steps: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", esper.DoubtWarning)
        with pytest.raises(esper.DoubtWarning, match=NO_TEST_SET):
            door(tmp_path / "run", callbacks=[steps.append])
    assert "StepDone" not in {type(each).__name__ for each in steps}


USED = "the optimiser has made steps before"


def with_optimizer(
    run_dir: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, **options: Any
) -> list[str]:
    """What is told of optimisers before a run."""
    parts = {"train": loader(), "judge": loader(60, 2, shuffle=False)}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        esper.train(model, parts, optimizer=optimizer, config=SETTINGS | {"run_dir": run_dir, "steps": 40})
    return [str(each.message) for each in told if USED in str(each.message)]


def test_an_optimiser_that_an_earlier_run_left_at_a_lower_rate_is_told_with_both_rates(tmp_path: Path) -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    assert with_optimizer(tmp_path / "first", model, optimizer) == []
    left = optimizer.param_groups[0]["lr"]
    assert left < 0.01
    (told,) = with_optimizer(tmp_path / "second", model, optimizer)
    rates = f"its rate stands at {left:.3g}, its first was 0.01"
    assert told == f"{USED}: {rates}; for a fresh start make it anew, or set the rate of each group"
    optimizer.param_groups[0]["lr"] = 0.01
    assert with_optimizer(tmp_path / "third", model, optimizer) == []
    optimizer.param_groups[0].update(lr=0.02, initial_lr=0.03)
    assert "stands at 0.02, its first was 0.03" in with_optimizer(tmp_path / "fourth", model, optimizer)[0]


def test_a_resumed_run_tells_nothing_of_an_optimiser_that_it_puts_back(tmp_path: Path) -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with_optimizer(tmp_path / "run", model, optimizer)
    parts = {"train": loader(), "judge": loader(60, 2, shuffle=False)}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        config = SETTINGS | {"run_dir": tmp_path / "run", "steps": 60}
        esper.train(model, parts, optimizer=optimizer, config=config, resume=True)
    assert [each for each in told if USED in str(each.message)] == []
