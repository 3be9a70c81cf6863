from __future__ import annotations

import threading
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest

from esper.core.errors import ConfigError
from esper.core.settings.config import described, load, longest, require_positive


class Shape(Enum):
    ROUND = "round"
    FLAT = "flat"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trigger:
    slope: float = 0.01
    floor: float | None = None

    def __post_init__(self) -> None:
        if self.slope <= 0:
            raise ConfigError("trigger.slope", self.slope, "must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    listen: str
    workers: int = 4
    mode: Literal["lag", "sync"] = "lag"
    trigger: Trigger = Trigger(slope=0.5)
    state_dir: Path | None = None
    widths: tuple[int, ...] = (64,)
    is_verbose: bool = False
    shape: Shape = Shape.ROUND
    extra: Trigger = field(default_factory=Trigger)


def read(
    *, file: Path | None = None, environ: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> Config:
    flags = {"listen": "unix:/a"} if flags is None else flags
    return load(Config, file=file, environ=environ or {}, prefix="ESPER_T_", flags=flags).value


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("text", "widths"), [("4,8", (4, 8)), ("4,8,", (4, 8)), (" 4, 8", (4, 8)), ("", ())])
def test_a_list_is_its_items_between_commas(text: str, widths: tuple[int, ...]) -> None:
    assert read(flags={"listen": "a", "widths": text}).widths == widths


def test_defaults_give_way_to_file_environment_and_flags_in_that_order(tmp_path: Path) -> None:
    file = toml(tmp_path, 'listen = "file"\nworkers = 1\nmode = "sync"\n[trigger]\nfloor = 2\n')
    loaded = load(
        Config,
        file=file,
        environ={"ESPER_T_WORKERS": "2", "ESPER_T_MODE": "lag", "OTHER": "x"},
        prefix="ESPER_T_",
        flags={"workers": 3, "is_verbose": None},
    )
    config = loaded.value
    assert (config.listen, config.workers, config.mode) == ("file", 3, "lag")
    assert config.trigger == Trigger(slope=0.5, floor=2.0)
    origins = {key: loaded.origins[key] for key in ("listen", "workers", "mode", "trigger.floor", "trigger.slope")}
    assert origins == {
        "listen": "file",
        "workers": "flag",
        "mode": "environment",
        "trigger.floor": "file",
        "trigger.slope": "default",
    }


def test_a_nested_key_is_named_with_dots_in_flags_and_two_underscores_in_the_environment() -> None:
    assert read(environ={"ESPER_T_TRIGGER__FLOOR": "0.25"}).trigger.floor == 0.25
    assert read(flags={"listen": "a", "trigger.floor": 0.5}).trigger.floor == 0.5


def test_an_unknown_key_of_the_file_names_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"worker = 3: the file .* did you mean 'workers'"):
        read(file=toml(tmp_path, "worker = 3"))


def test_an_unknown_variable_of_the_environment_names_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"the environment .* did you mean 'ESPER_T_WORKERS'"):
        read(environ={"ESPER_T_WORKER": "3"})


def test_a_prefix_that_all_variables_share_makes_none_of_them_near() -> None:
    with pytest.raises(ConfigError, match=r"the environment .*known are .*ESPER_T_LISTEN"):
        read(environ={"ESPER_T_QQQ": "3"})


def test_an_unknown_flag_names_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"the flag .* did you mean 'workers'"):
        read(flags={"listen": "a", "worker": 3})


def test_an_unknown_key_in_a_table_is_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'trigger\.slope'"):
        read(file=toml(tmp_path, "[trigger]\nslop = 1"))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("workers", "many", "a whole number"),
        ("workers", 1.5, "a whole number"),
        ("workers", True, "a whole number"),
        ("is_verbose", "maybe", "true or false"),
        ("mode", "fast", "one of lag, sync"),
        ("shape", "square", "one of round, flat"),
        ("widths", "4,x", "a comma-separated list of a whole number"),
        ("widths", "4,,8", "a comma-separated list of a whole number"),
        ("widths", ",4", "a comma-separated list of a whole number"),
        ("widths", 4, "a comma-separated list of a whole number"),
        ("trigger.floor", "low", "a number or none"),
        ("listen", 3, "text"),
        ("state_dir", "", "a path or none"),
    ],
)
def test_a_value_of_the_wrong_type_says_what_was_expected(key: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(flags={"listen": "a", key: value})
    assert (refused.value.key, refused.value.value) == (key, value)
    assert refused.value.remedy == f"expects {expected}"


def test_text_of_the_environment_becomes_the_fields_type() -> None:
    config = read(
        environ={
            "ESPER_T_WIDTHS": "4,6",
            "ESPER_T_IS_VERBOSE": "yes",
            "ESPER_T_STATE_DIR": "/x",
            "ESPER_T_SHAPE": "flat",
            "ESPER_T_TRIGGER__FLOOR": "none",
        }
    )
    assert (config.widths, config.is_verbose, config.state_dir) == ((4, 6), True, Path("/x"))
    assert (config.shape, config.trigger.floor) == (Shape.FLAT, None)


def test_a_required_setting_that_nobody_gives_is_named() -> None:
    with pytest.raises(ConfigError, match="listen = None: is required and expects text"):
        read(flags={})


def test_a_configs_own_check_is_applied() -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        read(environ={"ESPER_T_TRIGGER__SLOPE": "-1"})


@pytest.mark.parametrize("text", ["workers = ", "workers = 3\nworkers = 4", "\x00"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="is not TOML"):
        read(file=toml(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read(file=tmp_path / "absent.toml")


def test_every_setting_is_described_with_its_origin() -> None:
    lines = list(described(load(Config, file=None, environ={}, prefix="ESPER_T_", flags={"listen": "a"})))
    assert 'listen = "a"  # flag' in lines
    assert "trigger.slope = 0.5  # default" in lines
    assert "# state_dir is not set" in lines
    assert len(lines) == 11


def test_what_is_described_is_a_settings_file(tmp_path: Path) -> None:
    flags = {"listen": 'a "b"', "state_dir": "/x", "widths": (1, 2), "is_verbose": True, "shape": "flat"}
    loaded = load(Config, file=None, environ={}, prefix="ESPER_T_", flags=flags)
    assert read(file=toml(tmp_path, "\n".join(described(loaded))), flags={}) == loaded.value


@pytest.mark.parametrize("slope", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_number_above_zero_is_refused_by_its_name(slope: float) -> None:
    @dataclass(frozen=True)
    class Given:
        floor: float = 1.0
        slope: float = 1.0

    require_positive(Given(), "floor", "slope")
    with pytest.raises(ConfigError, match=r"slope = .*: give a number above zero"):
        require_positive(Given(slope=slope), "floor", "slope")


@pytest.mark.parametrize(("key", "value"), [("wait_s", 1e18), ("wait_s", 1e300), ("kept_hours", 1e300)])
def test_a_time_that_no_clock_can_wait_is_refused(key: str, value: float) -> None:
    @dataclass(frozen=True)
    class Given:
        wait_s: float = 3600.0
        kept_hours: float = 720.0
        rate: float = 1e300

    require_positive(Given(), "wait_s", "kept_hours", "rate")
    with pytest.raises(ConfigError, match=rf"{key} = .*: give at most \d+, which is ten years"):
        require_positive(Given(**{key: value}), "wait_s", "kept_hours", "rate")
    assert longest("wait_s") < threading.TIMEOUT_MAX


def test_a_path_is_said_as_people_write_it() -> None:
    assert str(ConfigError("run_dir", Path("runs/one"), "is full")) == "run_dir = 'runs/one': is full"


@dataclass(frozen=True, kw_only=True, slots=True)
class Secretive:
    webhook_url: str | None = None
    port: int = 1


def test_a_url_may_hold_a_password_and_is_shown_nowhere() -> None:
    environ = {"ESPER_T_WEBHOOK_URL": "https://hooks.example/T0KEN"}
    loaded = load(Secretive, file=None, environ=environ, prefix="ESPER_T_", flags={})
    assert loaded.value.webhook_url == "https://hooks.example/T0KEN"
    shown = list(described(loaded))
    assert shown == ["# webhook_url is not shown: it may hold a secret  # environment", "port = 1  # default"]
    with pytest.raises(ConfigError, match=r"did you mean .ESPER_T_WEBHOOK_URL.") as failure:
        load(Secretive, file=None, environ={"ESPER_T_WEBHOK_URL": "https://T0KEN"}, prefix="ESPER_T_", flags={})
    assert "T0KEN" not in str(failure.value)
