"""A blueprint of one's own: a gated bottleneck, as files and as described."""

from __future__ import annotations

from pathlib import Path

from esper.leyline import Blueprint
from esper.urza.artifacts import ArtifactStore
from esper.urza.own.description import Described, read_description

SOURCE = """from torch import nn
from torch.nn import functional as F


class Gated(nn.Module):
    def __init__(self, features, width):
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.up = nn.Linear(features, width, bias=False)
        self.gate = nn.Linear(features, width, bias=False)
        self.down = nn.Linear(width, features, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, h):
        h = self.norm(h)
        return self.down(F.silu(self.gate(h)) * self.up(h))


def build(shape, parameters, weights):
    return Gated(shape.features, int(parameters["width"]))
"""
DESCRIPTION = """id = "lab.gated"
name = "Gated bottleneck"
description = "h + a W2 (silu(Wg norm(h)) * W1 norm(h)) on one activation."
slots = ["residual.linear"]
factory = "gated.py:build"
risk = 0.35
recommendation = "Where a bottleneck without a gate was refused."
causal = true

[[parameters]]
name = "width"
low = 1
high = 1024
default = 8
meaning = "hidden features of the seed"

[cost]
parameters = ["3 features width", "2 features"]
forward_macs = ["3 positions features width"]
"""


def written(directory: Path, *, source: str = SOURCE, description: str = DESCRIPTION) -> Path:
    """The description's path; the factory stands beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "gated.py").write_text(source)
    path = directory / "gated.toml"
    path.write_text(description)
    return path


def described(directory: Path, *, source: str = SOURCE, description: str = DESCRIPTION) -> Described:
    """The same, read."""
    return read_description(written(directory / "described", source=source, description=description))


def stored(described: Described, artifact_dir: Path) -> Blueprint:
    """Its first version, whose artefacts are in the directory."""
    artifact_dir.mkdir(parents=True, exist_ok=True)
    blueprint, artifact = described.completed(1)
    for content in (artifact, *described.files):
        ArtifactStore(artifact_dir).put(content)
    return blueprint
