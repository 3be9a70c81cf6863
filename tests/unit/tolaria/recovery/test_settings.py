"""A run's settings, saved and had again."""

import json
from dataclasses import fields, replace
from pathlib import Path

from esper.tolaria.config import TrainConfig
from esper.tolaria.recovery.snapshot import config_of, settings_of


def test_every_setting_is_of_its_type_again() -> None:
    places = {each.name: Path("a") / each.name for each in fields(TrainConfig) if "Path" in str(each.type)}
    assert {"run_dir", "library", "tls_ca"} <= set(places)
    config = replace(TrainConfig(), blueprints=("lab.gated",), deterministic=True, **places)
    assert config_of(json.loads(json.dumps(settings_of(config)))) == config
