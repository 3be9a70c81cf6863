"""Flags: every setting has one, unknown ones are named with their nearest neighbour."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.flags import FlagParser, add_settings, given


@pytest.fixture
def parser() -> FlagParser:
    parser = FlagParser(prog="tolaria-train", allow_abbrev=False)
    add_settings(parser)
    return parser


def test_every_setting_has_a_flag_with_help(parser: FlagParser) -> None:
    text = parser.format_help()
    for setting in fields(TrainConfig):
        assert "--" + setting.name.replace("_", "-") in text
        assert setting.metadata["help"]


def test_flags_become_values_of_the_settings_types(parser: FlagParser) -> None:
    namespace = parser.parse(
        [
            "--hidden",
            "6,6",
            "--epochs",
            "3",
            "--lr",
            "0.1",
            "--no-pcgrad",
            "--no-deterministic",
            "--run-dir",
            "runs/a",
            "--blueprints",
            "a,b",
        ]
    )
    assert given(namespace) == {
        "hidden": (6, 6),
        "epochs": 3,
        "lr": 0.1,
        "pcgrad": False,
        "deterministic": False,
        "run_dir": Path("runs/a"),
        "blueprints": ("a", "b"),
    }


def test_absent_flags_leave_no_trace(parser: FlagParser) -> None:
    assert given(parser.parse([])) == {}


def test_an_unknown_flag_names_the_nearest_one(parser: FlagParser) -> None:
    with pytest.raises(ConfigError, match=r"--epoch.*did you mean --epochs\?"):
        parser.parse(["--epoch", "3"])


@pytest.mark.parametrize("argv", [["--epochs", "many"], ["--grow", "sometimes"], ["--hidden", "6,x"]])
def test_a_value_of_the_wrong_kind_is_one_clear_error(parser: FlagParser, argv: list[str]) -> None:
    with pytest.raises(ConfigError, match=argv[0]):
        parser.parse(argv)
