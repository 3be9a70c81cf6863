"""Every rule fires in a scenario and clears in it; what the services say on the way is as written, and nothing else.

test_vocabulary plays every file in the default suite; here each is a test: `pytest tests/scenarios -m slow -k NAME`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios import gate_player, policy_player
from tests.scenarios.reading import MEMORY, Seen, files, read


@pytest.fixture
def state_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize("path", files("policy"), ids=lambda path: path.stem)
def test_the_policy_and_its_risk_rules(path: Path, state_dir: Path) -> None:
    policy_player.play(read(path, policy_player.Scene, policy_player.Stage), state_dir, Seen())


@pytest.mark.slow
@pytest.mark.parametrize("path", files("gates"), ids=lambda path: path.stem)
def test_the_gates_and_the_orders(path: Path, state_dir: Path) -> None:
    gate_player.play(read(path, gate_player.Scene, gate_player.Stage), state_dir, Seen())


def test_a_key_that_no_player_knows_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "misspelt.toml"
    path.write_text('says = "s"\n[[then]]\nfinding = ["LOSS_SPIKE note"]\n')
    with pytest.raises(ValueError, match=r"misspelt\.toml: finding is no key of a stage"):
        read(path, policy_player.Scene, policy_player.Stage)


def test_what_a_stage_does_not_expect_fails_it(state_dir: Path) -> None:
    path = next(path for path in files("policy") if path.stem == "loss_spike")
    scene = read(path, policy_player.Scene, policy_player.Stage)
    scene.then[2].events = []
    with pytest.raises(AssertionError, match=r"loss_spike, stage 3: .*conservative_entered"):
        policy_player.play(scene, state_dir, Seen())


def test_whatever_breaks_in_a_stage_says_where(state_dir: Path) -> None:
    scene = gate_player.Scene(name="misspelt", says="s", then=[gate_player.Stage(), gate_player.Stage(orders=["prun"])])
    with pytest.raises(KeyError, match="prun") as caught:
        gate_player.play(scene, state_dir, Seen())
    assert caught.value.__notes__ == ["in misspelt, stage 2"]
