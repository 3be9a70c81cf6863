"""What a run was started with; its command line gives the same settings again."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.core.settings.config import load
from esper.tolaria.config import TrainConfig
from esper.tolaria.flags import given as given_flags
from esper.tolaria.launcher import parser
from esper.tolaria.record.course.facts import command, facts_of
from esper.tolaria.task.prepare import prepare

PARSER = parser()
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1).map("runs/{}".format)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "hidden": st.lists(st.integers(1, 512), min_size=1, max_size=3).map(tuple),
        "lr": st.floats(1e-6, 1.0),
        "epochs": st.integers(1, 10**6),
        "grow": st.sampled_from(["never", "auto"]),
        "deterministic": st.booleans(),
        "run_dir": TEXTS.map(Path),
        "latency_rules": st.booleans(),
    },
)


@settings(max_examples=50)
@given(changes=CHANGES)
def test_the_command_gives_the_same_settings_again(changes: dict[str, Any]) -> None:
    config = replace(TrainConfig(), **changes)
    name, *flags = shlex.split(command(config))
    assert name == "tolaria-train"
    again = load(TrainConfig, file=None, environ={}, prefix="TOLARIA_", flags=given_flags(PARSER.parse(flags)))
    assert again.value == config


def test_the_defaults_need_no_flag() -> None:
    assert command(TrainConfig()) == "tolaria-train"


def test_what_a_rule_decided_is_not_said_to_have_been_given(tmp_path: Path) -> None:
    given = TrainConfig(hidden=(6, 6), run_dir=tmp_path / "r")
    run = prepare(given)
    assert run.config.evaluate_every_steps is not None
    assert facts_of(run)["command"] == command(given)


@pytest.mark.parametrize("is_given", [False, True])
def test_a_run_that_a_script_made_has_no_command(tmp_path: Path, is_given: bool) -> None:
    run = prepare(TrainConfig(hidden=(6, 6), run_dir=tmp_path / "r"))
    run.is_given = is_given
    told = facts_of(run)
    assert (told["optimizer"], told["device"]) == ("Adam", "cpu")
    assert (told["command"] is None) == is_given
    assert told["model"] == (type(run.executor.arm.model).__name__ if is_given else "mlp")
