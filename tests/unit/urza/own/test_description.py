"""A blueprint's description: what it says is in the catalogue's message; what can't be used is named in a line."""

import os
from pathlib import Path

import pytest

from esper.core.errors import ConfigError
from esper.core.messages.validation import violations
from esper.leyline import HandlingClass, HazardBand, SeedRecipe, SlotKind
from esper.urza.catalog import Catalog, digest_of
from esper.urza.own.description import OWN, read_description
from tests.unit.urza.own.making import DESCRIPTION, SOURCE, described, written


def test_it_becomes_a_valid_blueprint_whose_digests_cover_every_byte(tmp_path: Path) -> None:
    made = described(tmp_path)
    blueprint, artifact = made.completed(3)
    assert violations(blueprint) == []
    assert digest_of(blueprint) == blueprint.digest
    assert (blueprint.version, blueprint.slot_kinds) == (3, [SlotKind.SLOT_KIND_RESIDUAL_LINEAR])
    assert (blueprint.safety.hazard, blueprint.safety.handling) == (
        HazardBand.HAZARD_BAND_MEDIUM,
        HandlingClass.HANDLING_CLASS_STANDARD,
    )
    recipe = SeedRecipe.FromString(artifact)
    assert violations(recipe) == []
    assert recipe.factory.startswith(OWN)
    Catalog.builtin().with_own([blueprint])
    other = described(tmp_path, source=SOURCE + "\n")
    changed, changed_artifact = other.completed(3)
    assert SeedRecipe.FromString(changed_artifact).factory != recipe.factory
    assert changed.digest != blueprint.digest


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('id = "lab.gated"', "", "id"),
        ('id = "lab.gated"', 'id = "span.gated"', "built in"),
        ('id = "lab.gated"', 'id = "Gated"', "FAMILY.NAME"),
        ("risk = 0.35", "risk = 1.5", "from 0"),
        ("risk = 0.35", "risk = true", "from 0"),
        ("causal = true", "casual = true", "did you mean causal"),
        ('slots = ["residual.linear"]', "slots = []", "slots"),
        ('slots = ["residual.linear"]', 'slots = ["span.linear"]', "residual.linear"),
        ('factory = "gated.py:build"', 'factory = "gated.py"', "FILE.py:FUNCTION"),
        ('factory = "gated.py:build"', 'factory = "nowhere.py:build"', "can't be read"),
        ("default = 8", "default = 2048", "1..1024"),
        ("default = 8", "default = 1.5", "whole"),
        ('name = "width"', 'name = "features"', "the slot's own"),
        ('"2 features"', '"2 depth"', "depth"),
        ('["3 positions features width"]', '"3"', "as a list"),
        ("causal = true", 'causal = true\nweights = "none.safetensors"', "can't be read"),
        ("causal = true", 'handling = "free"', "standard, restricted, quarantine"),
        ("causal = true", "causal = 1", "true or false"),
        ("[cost]", "[cost", "TOML"),
        ('"2 features"', '"18446744073709551616 features"', "at most 18446744073709551615"),
        ("high = 1024", "high = inf", "finite"),
        ("low = 1", "low = nan", "finite"),
        ("causal = true", "causal = true\ntrial_features = 0", "from 1 to 16384"),
        ("causal = true", "causal = true\ntrial_features = 1000000000", "from 1 to 16384"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in DESCRIPTION
    path = written(tmp_path, description=DESCRIPTION.replace(old, new, 1))
    with pytest.raises(ConfigError) as raised:
        read_description(path)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_pipe_in_a_files_place_is_refused_at_once(tmp_path: Path) -> None:
    path = written(tmp_path)
    for place in (tmp_path / "gated.py", path):
        place.unlink()
        os.mkfifo(place)
        with pytest.raises(ConfigError, match="can't be read: it is no file"):
            read_description(path)
        place.unlink()
        written(tmp_path)
