"""A client in another language: Node signs a command with our protos alone, and Kasmina acts on it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from esper.core.clock import SYSTEM_CLOCK
from esper.core.keys import Keyring, new_secret
from esper.core.signing import Signer, Verifier, open_payload
from esper.leyline import (
    AdaptationCommand,
    ApplyCommandRequest,
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
from esper.rpc.clients.health import wait_serving

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("node")
VECTORS = ROOT / "tests" / "contract" / "signing_vectors.json"
RUN = "run-node"
PATIENCE_S = 30.0

pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(not shutil.which("node") or not shutil.which("npm"), reason="node and npm are not installed"),
]

PAUSE: dict[str, Any] = {
    "commandId": "node-1",
    "trainingRunId": RUN,
    "generation": 0,
    "step": 0,
    "issuedBy": "operator:node",
    "pause": {"rationale": "häufig"},
}


@pytest.fixture(scope="session")
def client() -> Path:
    """The client with its packages, as the lock file names them; installed once for each lock file."""
    lock = (SOURCE / "package-lock.json").read_bytes()
    home = ROOT / ".cache" / f"node-client-{hashlib.sha256(lock).hexdigest()[:12]}"
    home.mkdir(parents=True, exist_ok=True)
    for file in SOURCE.iterdir():
        if file.is_file():
            shutil.copy(file, home)
    if not (home / "installed").exists():
        install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        answer = subprocess.run(install, cwd=home, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            pytest.skip(f"npm ci failed, is there a network? {answer.stderr.strip().splitlines()[-1:]}")
        (home / "installed").touch()
    return home


class Node:
    """The client's scripts, run as a user would."""

    def __init__(self, home: Path, secret: str, directory: Path) -> None:
        self._home = home
        self._secret = secret
        self._directory = directory

    def apply(self, command: dict[str, Any] | str, *flags: str) -> subprocess.CompletedProcess[str]:
        file = self._directory / "command.json"
        file.write_text(command if isinstance(command, str) else json.dumps(command), encoding="utf-8")
        script = ["node", "apply_command.mjs", "--proto", str(ROOT / "proto"), *flags, str(file)]
        environ = {**os.environ, "ESPER_LEYLINE_SECRET": self._secret}
        return subprocess.run(script, cwd=self._home, env=environ, capture_output=True, text=True, check=False)


@pytest.fixture
def secret() -> str:
    return new_secret()


@pytest.fixture
def node(client: Path, secret: str, tmp_path: Path) -> Node:
    return Node(client, secret, tmp_path)


def test_node_gives_every_vectors_signature(client: Path) -> None:
    answer = subprocess.run(
        ["node", "vectors.mjs", str(VECTORS)], cwd=client, capture_output=True, text=True, check=True
    )
    document = json.loads(VECTORS.read_text(encoding="utf-8"))
    expected = [(v["name"], v["signature"], v["input_bytes"]) for v in document["vectors"]]
    found = json.loads(answer.stdout)
    assert [(v["name"], v["signature"], v["input_bytes"]) for v in found] == expected
    assert found[0]["key"] == document["derived_keys"]["k1"]


def test_what_node_signs_our_verifier_believes(node: Node, secret: str) -> None:
    answer = node.apply(PAUSE, "--sign-only")
    assert answer.returncode == 0, answer.stderr
    envelope = json_format.Parse(answer.stdout, ApplyCommandRequest()).command
    verifier = Verifier(Keyring.from_secret(secret), SYSTEM_CLOCK)
    verifier.verify(envelope, audience=f"kasmina/{RUN}", payload_type=AdaptationCommand.DESCRIPTOR.full_name)
    command = open_payload(envelope, AdaptationCommand)
    assert command.pause.rationale == "häufig"
    assert command.HasField("generation")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ({**PAUSE, "pauze": {}}, "AdaptationCommand has no field pauze"),
        ({**PAUSE, "pause": {"reason": "x"}}, "AdaptationCommand.pause has no field reason"),
        ("{", "JSON"),
    ],
)
def test_the_client_refuses_what_it_would_sign_differently(
    node: Node, command: dict[str, Any] | str, message: str
) -> None:
    answer = node.apply(command, "--sign-only")
    assert answer.returncode == 64
    assert message in answer.stderr
    assert answer.stdout == ""


def test_a_kasmina_that_is_not_there_is_worth_another_try(node: Node, tmp_path: Path) -> None:
    answer = node.apply(PAUSE, "--endpoint", f"unix:{tmp_path}/nobody.sock")
    assert answer.returncode == 75
    assert "UNAVAILABLE" in answer.stderr


@pytest.fixture
def kasmina(secret: str) -> Iterator[str]:
    """A real Kasmina on a unix socket, with a run open."""
    with tempfile.TemporaryDirectory(prefix="esper-") as directory:
        endpoint = f"unix:{directory}/kasmina.sock"
        command = [sys.executable, "-m", "esper.kasmina.server", "--listen", endpoint, "--state-dir", directory]
        environ = {**os.environ, "ESPER_LEYLINE_SECRET": secret}
        process = subprocess.Popen(command, cwd=ROOT, env=environ)
        try:
            with channel(endpoint) as link:
                wait_serving(link, "", timeout_s=PATIENCE_S)
                signer = Signer(Keyring.from_secret(secret), SYSTEM_CLOCK)
                signed = signer.sign(run_spec(), audience=f"kasmina/{RUN}")
                KasminaClient(link).open_run(KasminaServiceOpenRunRequest(command=signed), timeout_s=PATIENCE_S)
            yield endpoint
        finally:
            process.terminate()
            assert process.wait(PATIENCE_S) == 0


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


def test_kasmina_acts_on_a_command_that_node_signed_and_refuses_a_forged_one(node: Node, kasmina: str) -> None:
    answer = node.apply(PAUSE, "--endpoint", kasmina)
    assert answer.returncode == 0, answer.stderr
    outcome = json.loads(answer.stdout)
    assert (outcome["commandId"], outcome["accepted"]) == ("node-1", True)
    assert outcome["ledgerSeq"] >= 1

    again = node.apply(PAUSE, "--endpoint", kasmina)
    assert json.loads(again.stdout)["repeatedId"] is True

    other = node.apply({**PAUSE, "pause": {"rationale": "other"}}, "--endpoint", kasmina)
    assert other.returncode == 1

    forged = node.apply({**PAUSE, "commandId": "node-2"}, "--endpoint", kasmina, "--key-id", "k9")
    assert forged.returncode == 1
    assert "UNAUTHENTICATED" in forged.stderr
