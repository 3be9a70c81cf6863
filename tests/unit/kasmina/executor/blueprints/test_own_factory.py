"""A user's own factory: what it builds is held to its description, and what it raises is one line that says where."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from esper.core.errors import ConfigError, CorruptRecord, EsperError, GraftFailed
from esper.kasmina.executor.blueprint_trial import try_blueprint
from esper.kasmina.executor.blueprints.own import load_factory
from esper.leyline import SeedRecipe
from esper.urza.own.description import Described
from tests.unit.urza.own.making import DESCRIPTION, SOURCE, described

CONV = """from torch import nn


def build(shape, parameters, weights):
    kinds = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    layer = kinds[shape.position_dims](shape.features, shape.features, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return layer
"""
CONV_DESCRIPTION = (
    DESCRIPTION.replace("residual.linear", "residual.conv")
    .replace("3 features width", "features features")
    .replace('"features features", "2 features"', '"features features"')
    .replace("3 positions features width", "positions features features")
)
AHEAD = """from torch import nn


class Mean(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.down = nn.Linear(features, features, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, h):
        return self.down(h.mean(dim=1, keepdim=True).expand_as(h))


def build(shape, parameters, weights):
    return Mean(shape.features)
"""


def tried(made: Described, sizes: tuple[int, ...] = (8, 16)) -> None:
    blueprint, artifact = made.completed(1)
    recipe = SeedRecipe.FromString(artifact)
    try_blueprint(blueprint, recipe.factory, load_factory(recipe, made.source, made.weights), sizes=sizes)


def refused(made: Described, kind: type[EsperError] = ConfigError) -> str:
    with pytest.raises(kind) as raised:
        tried(made)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_one_that_is_as_described_passes(tmp_path: Path) -> None:
    tried(described(tmp_path))
    tried(described(tmp_path, source=CONV, description=CONV_DESCRIPTION))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("nn.init.zeros_(self.down.weight)", "pass", "zero_output"),
        ("return self.down(", "return self.up(h)[..., :4] if True else (", "it must give what it gets"),
        ("self.norm = nn.LayerNorm(features)", "self.norm = nn.Dropout(0.5)", "dropout"),
        ("h = self.norm(h)", "h = self.norm(h.mul_(2))", "changes the activation"),
        ("return self.down(", "return float('nan') * self.down(", "not finite"),
        ("h = self.norm(h)", "raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_difference_from_the_description_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in SOURCE
    made = described(tmp_path, source=SOURCE.replace(old, new, 1))
    assert words in refused(made, EsperError)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [("3 features width", "2 features width", "cost.parameters"), ("3 positions", "positions", "cost.forward_macs")],
)
def test_a_wrong_cost_is_told_with_both_numbers(tmp_path: Path, old: str, new: str, key: str) -> None:
    words = refused(described(tmp_path, description=DESCRIPTION.replace(old, new, 1)))
    assert words.startswith(f"{key} = ")
    assert "it has" in words


def test_one_that_looks_ahead_may_not_call_itself_causal(tmp_path: Path) -> None:
    description = DESCRIPTION.replace('"3 features width", "2 features"', '"features features"')
    description = description.replace("3 positions features width", "positions features features")
    assert "causal" in refused(described(tmp_path, source=AHEAD, description=description))
    tried(described(tmp_path, source=AHEAD, description=description.replace("causal = true", "causal = false")))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def build(:\n", "SyntaxError"),
        ("import nowhere_at_all\n", "ModuleNotFoundError"),
        ("def other():\n    pass\n", "no function 'build'"),
        ("def build(shape, parameters, weights):\n    raise ValueError('no\\nway')\n", "ValueError: no (line 2)"),
        ("def build():\n    pass\n", "TypeError"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("import sys\n\n\ndef build(shape, parameters, weights):\n    sys.exit('no')\n", "SystemExit: no (line 5)"),
        ("def build(shape, parameters, weights):\n    return 1\n", "returned int"),
    ],
)
def test_what_the_code_raises_is_one_line(tmp_path: Path, source: str, words: str) -> None:
    assert words in refused(described(tmp_path, source=source), GraftFailed)


def test_tensors_arrive_by_name_and_are_the_seeds_own(tmp_path: Path) -> None:
    source = SOURCE + "\n\ndef seeded(shape, parameters, weights):\n    made = build(shape, parameters, {})\n"
    source += "    made.up.weight.data = weights['up']\n    return made\n"
    folder = tmp_path / "described"
    folder.mkdir()
    (folder / "up.safetensors").write_bytes(save({"up": torch.full((8, 16), 2.0)}))
    description = DESCRIPTION.replace(":build", ":seeded").replace("risk", 'weights = "up.safetensors"\nrisk', 1)
    made = described(tmp_path, source=source, description=description)
    tried(made, sizes=(16,))
    recipe = SeedRecipe.FromString(made.completed(1)[1])
    with pytest.raises(CorruptRecord, match="not what its recipe names"):
        load_factory(recipe, made.source, b"other")
    with pytest.raises(CorruptRecord, match="not what its recipe names"):
        load_factory(recipe, made.source + b"#", made.weights)
    broken = replace(made, weights=b"no tensors")
    with pytest.raises(CorruptRecord, match="no file of safetensors"):
        load_factory(SeedRecipe.FromString(broken.completed(1)[1]), made.source, b"no tensors")
