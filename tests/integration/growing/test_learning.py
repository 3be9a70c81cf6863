"""The loop over real services: reports go over the bus into Simic's store, weights come back and decide."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.core.clock import SYSTEM_CLOCK
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer
from esper.leyline import (
    EvaluateRequest,
    RunClosure,
    SeedStage,
    SubmitOutcomeRequest,
    TamiyoServiceCloseRunRequest,
    TamiyoServiceGetStatusRequest,
    TamiyoServiceOpenRunRequest,
)
from esper.rpc.clients import TamiyoClient
from esper.simic.collect import collect
from esper.simic.publication import publish, update_of
from esper.simic.replay import ReplayStore
from esper.tamiyo.learned.weights import digest_of
from tests.integration.services.service_process import SECRET, ServiceProcess
from tests.integration.tracing.otlp_receiver import ReceivedSpan, Receiver
from tests.unit.tamiyo.builders import ALWAYS, AUTO, RUN, improving, packet, seed_state, spec
from tests.unit.tamiyo.learned.weighing import content

T = 20.0
KEYRING = Keyring.from_secret(SECRET)
SETTINGS = "[tamiyo]\nshadow_decisions = 2\n"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + T
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


class Run:
    """One run at a Tamiyo: opened, decided on, ended."""

    def __init__(self, service: ServiceProcess, run_id: str, mode: int) -> None:
        signer = Signer(KEYRING, SYSTEM_CLOCK)
        self._sign = lambda message: signer.sign(message, audience=f"tamiyo/{run_id}")
        self._run_id = run_id
        made = spec(mode, training_run_id=run_id, kasmina_audience=f"kasmina/{run_id}")  # type: ignore[arg-type]
        opening = TamiyoServiceOpenRunRequest(command=self._sign(made))
        self.opened = TamiyoClient(service.channel).open_run(opening, timeout_s=T)
        self.client = TamiyoClient(service.channel, token=self.opened.run_token)

    def decide(self, steps: range) -> list[str]:
        """What was decided at each step."""
        found = []
        for step in steps:
            request = EvaluateRequest(packet=packet(step, *improving(step), training_run_id=self._run_id))
            found.append(self.client.evaluate(request, timeout_s=T).decision.metadata.policy.action)
        return found

    def end(self) -> None:
        closure = RunClosure(training_run_id=self._run_id, generation=1, step=700, reason="done")
        self.client.close_run(TamiyoServiceCloseRunRequest(command=self._sign(closure)), timeout_s=T)


def version(service: ServiceProcess) -> str:
    status = TamiyoClient(service.channel).get_status(TamiyoServiceGetStatusRequest(), timeout_s=T)
    return status.policy_version


@pytest.mark.timeout(120)
def test_reports_reach_simic_once_and_weights_reach_later_runs(tmp_path: Path) -> None:
    settings = tmp_path / "tamiyo.toml"
    settings.write_text(SETTINGS)
    with Receiver() as receiver, ServiceProcess("weatherlight", tmp_path) as weatherlight:
        arguments = ("--weatherlight", weatherlight.endpoint, "--config", str(settings))
        with ServiceProcess("tamiyo", tmp_path, *arguments, "--otlp-endpoint", receiver.endpoint) as tamiyo:
            first = Run(tamiyo, RUN, ALWAYS)
            assert "germinate" in first.decide(range(210, 260, 10))
            kept = SubmitOutcomeRequest(step=600, seeds=[seed_state("s1", SeedStage.SEED_STAGE_FOSSILIZED)])
            first.client.submit_outcome(kept, timeout_s=T)
            first.end()

            store = ReplayStore(tmp_path / "store" / "replay.db", SYSTEM_CLOCK)
            until(lambda: _collected(store, weatherlight) == 1)
            assert _collected(store, weatherlight) == 1, "what was acknowledged doesn't come again"
            (report,) = store.reports()
            assert report.observation.version == "growth:v1"
            store.close()
            assert main(["reports", "export", str(tmp_path / "store"), str(tmp_path / "r.jsonl")]) == 0
            assert json.loads((tmp_path / "r.jsonl").read_text())["report_id"] == report.report_id

            before = Run(tamiyo, "before", AUTO)
            published(tmp_path / "store", weatherlight, receiver)
            until(lambda: _beside(before, tamiyo) == "1.1.0")
            assert before.opened.policy_id == "heuristic"

            after = Run(tamiyo, "after", AUTO)
            assert (after.opened.policy_id, after.opened.policy_version) == ("bandit", "1.1.0")
            assert after.opened.policy_digest != before.opened.policy_digest
            names = {"simic.publish", "tamiyo.policy.take", "tamiyo.policy.swap"}
            spans = receiver.until(lambda found: names <= {span.name for span in found})
            assert len({span.trace_id for span in spans if span.name in names}) == 1, "one trace from Simic to the swap"
            (update,) = [span.span_id for span in spans if span.name == "tamiyo.policy.take"]
            assert "germinate" in after.decide(range(210, 400, 10)), "so that its trace is kept"
            decided = receiver.until(lambda found: any(_is_decision(span, "after") for span in found))
            linked = [span for span in decided if _is_decision(span, "after")]
            assert all(update in span.links for span in linked), "decisions by the weights are linked to it"
            assert not any(update in span.links for span in decided if _is_decision(span, "before"))
            tamiyo.kill()
        with ServiceProcess("tamiyo", tmp_path, *arguments) as restarted:
            assert version(restarted) == "1.1.0", "kill -9 loses no policy"
            assert Run(restarted, "later", AUTO).opened.policy_id == "bandit"
            newer = update_of(content("1.2.0", constant=0.5), SYSTEM_CLOCK)
            newer.weights_digest = "0" * 64
            publish(newer, weatherlight.endpoint, None, KEYRING, SYSTEM_CLOCK)
            standing = tmp_path / "policies" / "standing.json"
            until(lambda: newer.update_id in json.loads(standing.read_text())["seen"])
            assert "digest_mismatch" in json.loads(standing.read_text())["seen"][newer.update_id]
            assert version(restarted) == "1.1.0"


def _is_decision(span: ReceivedSpan, run_id: str) -> bool:
    return span.name == "tamiyo.evaluate" and span.attributes["esper.run.id"] == run_id


def published(store: Path, weatherlight: ServiceProcess, receiver: Receiver) -> None:
    """By the command line, as an operator does it, of weights that a gate has passed."""
    weights = content(constant=0.5)
    (store / "weights.safetensors").write_bytes(weights)
    told = {"passed": True, "checks": [], "digest": digest_of(weights)}
    (store / "validation.json").write_text(json.dumps(told))
    words = ["simic", "publish", str(store), "--weatherlight", weatherlight.endpoint]
    where = {"ESPER_LEYLINE_SECRET": SECRET, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{receiver.endpoint}"}
    command = [sys.executable, "-m", "esper.cli.main", *words]
    done = subprocess.run(command, env={**os.environ, **where}, capture_output=True, text=True, timeout=T, check=False)
    assert done.returncode == 0, done.stderr
    assert "bandit 1.1.0 is on the policy lane" in done.stdout


def _collected(store: ReplayStore, weatherlight: ServiceProcess) -> int:
    asyncio.run(collect(store, weatherlight.endpoint, None, KEYRING, idle_s=0.5))
    assert store.intake.repeated == 0
    return len(store)


_STEPS = iter(range(260, 1400, 10))


def _beside(run: Run, tamiyo: ServiceProcess) -> str:
    step = next(_STEPS)
    run.decide(range(step, step + 10, 10))
    return version(tamiyo)
