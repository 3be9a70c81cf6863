"""What every client is held against: a real Kasmina with a run open, and commands in files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.core.clock import SYSTEM_CLOCK
from esper.core.security.keys import Keyring, new_secret
from esper.core.security.signing import Signer
from esper.leyline import (
    HostManifest,
    IncubationMode,
    JudgeMode,
    KasminaRunSpec,
    KasminaServiceOpenRunRequest,
    LifeSettings,
    SlotKind,
    SlotSpec,
    SubmoduleSpec,
    TaskType,
)
from esper.rpc.clients import KasminaClient, channel
from tests.clients.commands import RUN
from tests.clients.serving import PATIENCE_S, serving


@pytest.fixture(scope="session")
def secret() -> str:
    return new_secret()


@pytest.fixture(scope="session")
def kasmina(secret: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its endpoint, on a port of its own; one process for all."""
    with serving("kasmina", tmp_path_factory.mktemp("kasmina"), secret) as endpoint, channel(endpoint) as link:
        signed = Signer(Keyring.from_secret(secret), SYSTEM_CLOCK).sign(run_spec(), audience=f"kasmina/{RUN}")
        KasminaClient(link).open_run(KasminaServiceOpenRunRequest(command=signed), timeout_s=PATIENCE_S)
        yield endpoint


@pytest.fixture
def command_file(tmp_path: Path) -> Path:
    return tmp_path / "command.json"


def run_spec() -> KasminaRunSpec:
    slot = SlotSpec(
        slot_id="span_linear:fc1-fc2",
        kind=SlotKind.SLOT_KIND_SPAN_LINEAR,
        read_path="fc1",
        write_path="fc2",
        in_features=64,
        out_features=10,
        width=6,
        read_positions=1,
        write_positions=1,
        read_kernel=1,
        write_kernel=1,
        is_foldable=True,
        order=0,
    )
    manifest = HostManifest(
        model="mlp",
        weights_digest="0" * 64,
        submodules=[SubmoduleSpec(path="fc1", class_name="Linear", parameters=390)],
        slots=[slot],
        parameters=460,
        forward_macs=444,
        task=TaskType.TASK_TYPE_CLASSIFICATION,
        optimizer_family="Adam",
    )
    life = LifeSettings(
        judge=JudgeMode.JUDGE_MODE_TWIN,
        window_steps=100,
        incubation=IncubationMode.INCUBATION_MODE_NONE,
        isolate=False,
        embargo_steps=100,
        margin_relative=0.03,
        margin_absolute=0.002,
        min_samples=300,
        growth_end_step=700,
        max_culls_in_row=2,
        reaction_steps=10,
        fade_steps=10,
        stability_limit=3,
    )
    return KasminaRunSpec(training_run_id=RUN, seed=1, generation=0, total_steps=1000, manifest=manifest, life=life)
