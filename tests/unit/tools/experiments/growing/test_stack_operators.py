"""Ways of doubling a decoder: the order of blocks, those that change nothing at first, and what the optimiser knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.unit.tools.experiments.loading import GROWING, load

for name in ("plan", "rows", "frontier"):
    load(name)
operators = load("stack_operators", GROWING)
SIZES = operators.Sizes(width=16, heads=2, context=8, batch=2)


def grown(way: str) -> tuple[torch.nn.Module, torch.nn.Module, dict]:
    torch.manual_seed(3)
    model = operators.decoder(SIZES, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(256, (2, 8))
    for _ in range(2):
        model(tokens).square().mean().backward()
        optimizer.step()
    return model, *operators.doubled(way, model, optimizer, SIZES)


@pytest.mark.parametrize("way", ["fresh-zero", "copies-zero"])
def test_ways_that_add_nothing_change_no_output(way: str) -> None:
    model, deeper, _ = grown(way)
    tokens = torch.randint(256, (2, 8))
    assert len(deeper.blocks) == 4
    assert torch.allclose(deeper(tokens), model(tokens), atol=1e-6)


@pytest.mark.parametrize(
    ("way", "origins", "factor"),
    [
        ("stack", (0, 1, 0, 1), 1.0),
        ("stack/2", (0, 1, 0, 1), 0.5),
        ("interleave", (0, 0, 1, 1), 1.0),
        ("interleave/2", (0, 0, 1, 1), 0.5),
    ],
)
def test_copies_stand_where_their_way_puts_them(way: str, origins: tuple[int, ...], factor: float) -> None:
    model, deeper, known = grown(way)
    for block, origin in zip(deeper.blocks, origins, strict=True):
        assert torch.equal(block.mlp.fc1.weight, model.blocks[origin].mlp.fc1.weight)
        assert torch.equal(block.mlp.fc2.weight, factor * model.blocks[origin].mlp.fc2.weight)
        assert known[block.mlp.fc1.weight]["exp_avg"].any()


def test_moments_of_copies_can_be_forgotten_and_those_of_fresh_blocks_are_unknown() -> None:
    _, deeper, known = grown("stack-forget")
    assert known[deeper.blocks[0].mlp.fc1.weight]["exp_avg"].any()
    assert not known[deeper.blocks[2].mlp.fc1.weight]["exp_avg"].any()
    _, deeper, known = grown("fresh")
    assert deeper.blocks[2].mlp.fc1.weight not in known


def test_a_run_is_made_once_and_told_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for number in range(3):
        (text / f"{number}.txt").write_bytes(bytes(range(256)) * 4)
    rows = tmp_path / "rows.jsonl"
    flags = ["--text", str(text), "--out", str(rows), "--width", "16", "--heads", "2", "--context", "8", "--batch", "2"]
    flags += ["--steps", "4", "--depth", "4", "--seeds", "1", "--ways", "stack", "--part", "13/99"]
    for _ in range(2):
        assert operators.main(flags) == 0
    (row,) = [json.loads(line) for line in rows.read_text().splitlines()]
    assert (row["name"], len(row["grafts"])) == ("stack default", 2)
    assert operators.main(["--out", str(rows), "--table"]) == 0
    assert "| stack default | 4 | 0.002 | 1 |" in capsys.readouterr().out
