"""A short real run with its three services: what it leaves behind, its traces, and hosts that stay as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from esper.core.errors import GraftFailed
from esper.core.security.run_line import LINE
from esper.kasmina.executor.graft import arm
from esper.tolaria.launcher import main
from esper.tolaria.record.course.reading import read_events, standing
from esper.tolaria.record.page.view import view
from tests.drills.launching import NARROW, events, train
from tests.integration.tracing.otlp_receiver import ReceivedSpan, Receiver

# No seed can gain a whole point of Brier score: each one is judged and culled.
RUN = ("--epochs", "14", "--growth-warmup-steps", "20", "--margin-absolute", "1")
SUMMARY_KEYS = (
    *("run_id", "data", "splits", "epochs", "steps", "seed", "val_accuracy", "val_loss", "test_accuracy"),
    *("host_parameters", "final_parameters", "training_macs", "growth", "seeds", "commands", "step_ms"),
    *("control_overhead_ms", "timeouts", "reproducible", "weights_digest"),
)
SEED_KEYS = {"seed_id", "blueprint_id", "slot", "stage", "alpha", "gain", "gain_se", "fate"}
DECISION = {
    ("esper-tamiyo", "tamiyo.evaluate"),
    ("esper-tamiyo", "urza.lookup"),
    ("esper-tamiyo", "tamiyo.sign"),
    ("esper-kasmina", "kasmina.verify"),
    ("esper-kasmina", "kasmina.ledger_commit"),
    ("tolaria-train", "tolaria.execute"),
    ("tolaria-train", "executor.graft"),
    ("esper-weatherlight", "oona.publish"),
    ("esper-weatherlight", "nissa.ingest"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Grown:
    """A finished run."""

    run_dir: Path
    summary: dict[str, Any]
    spans: list[ReceivedSpan]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grown]:
    run_dir = tmp_path_factory.mktemp("growing") / "run"
    with Receiver() as receiver:
        summary = train(run_dir, *RUN, "--grow", "always", "--otlp-endpoint", receiver.endpoint)
        yield Grown(run_dir=run_dir, summary=summary, spans=receiver.until(lambda found: bool(found)))


@pytest.fixture(scope="module")
def ungrown_digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return digest_of(tmp_path_factory.mktemp("ungrown") / "run", "--grow", "never")


def ancestors(span: ReceivedSpan, by_id: dict[str, ReceivedSpan]) -> list[str]:
    """Names of the spans above, the nearest first, as far as they were kept."""
    names = []
    while (above := by_id.get(span.parent_id)) is not None:
        names.append(above.name)
        span = above
    return names


def digest_of(run_dir: Path, *flags: str) -> str:
    """Weights of a run made in this process."""
    assert main([*NARROW, *RUN, *flags, "--run-dir", str(run_dir)]) == 0
    return str(json.loads((run_dir / "summary.json").read_text())["weights_digest"])


def test_the_summary_holds_what_a_reader_needs(grown: Grown) -> None:
    summary = grown.summary
    assert [key for key in SUMMARY_KEYS if key not in summary] == []
    assert summary["steps"] == 14 * 18
    assert summary["growth"]["judged"] >= 1
    assert summary["growth"]["kept"] == 0
    assert summary["commands"]["accepted"] == summary["commands"]["issued"] >= 2
    assert all(set(seed) >= SEED_KEYS for seed in summary["seeds"])
    assert {seed["fate"] for seed in summary["seeds"]} <= {"culled", "unfinished"}
    assert summary["reproducible"], summary["reproducible_cause"]


def test_every_command_gate_and_move_is_an_event_with_its_reason(grown: Grown) -> None:
    found = events(grown.run_dir)
    kinds = {event["kind"] for event in found}
    assert kinds >= {"run", "boundary", "epoch", "decision", "command", "directive", "transition", "gate", "finished"}
    assert all(event["reason"] for event in found if event["kind"] == "transition")
    judged = [event for event in found if event["kind"] == "gate" and event["gate"] == "G4_SYSTEM_IMPACT"]
    assert any({"gain", "standard_error", "margin"} <= set(event) for event in judged)
    assert len([event for event in found if event["kind"] == "command"]) == grown.summary["commands"]["issued"]
    assert (grown.run_dir / "report.html").stat().st_size > 10_000


def test_the_page_shows_the_run_as_its_summary_has_it(grown: Grown) -> None:
    assert len(read_events(grown.run_dir)) == len(events(grown.run_dir)), "what is written is whole"
    shown = view(standing(events(grown.run_dir)), grown.summary)
    assert shown["state"]["word"] == "finished"
    assert shown["cost"]["total"] == grown.summary["training_macs"]
    assert sum(shown["cost"]["parts"].values()) == grown.summary["training_macs"]
    assert shown["cost"]["parts"]["failed"] > 0
    assert shown["network"]["parameters"]["now"] == grown.summary["final_parameters"]
    assert shown["last_refused"]["reason"]
    assert {seed["seed_id"] for seed in shown["seeds"]} == {seed["seed_id"] for seed in grown.summary["seeds"]}
    kept = {command["trace_id"] for command in shown["commands"]} - {None}
    assert kept
    assert kept <= {span.trace_id for span in grown.spans}


def test_the_runs_secret_stands_in_its_own_file_alone(grown: Grown) -> None:
    secret = (grown.run_dir / "secret").read_bytes().strip()
    assert len(secret) >= 32
    files = [path for path in grown.run_dir.rglob("*") if path.is_file()]
    assert {"events.jsonl", "kasmina.db", "kasmina.log"} <= {path.name for path in files}
    assert [path.name for path in files if secret in path.read_bytes()] == ["secret"]
    assert not [span.name for span in grown.spans if secret.decode() in str(span.attributes)]


def test_a_host_whose_seeds_were_all_culled_is_the_one_that_never_grew(grown: Grown, ungrown_digest: str) -> None:
    assert grown.summary["weights_digest"] == ungrown_digest


def test_a_host_whose_grafts_all_fail_is_the_one_that_never_grew(
    tmp_path: Path, ungrown_digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise GraftFailed("injected")

    monkeypatch.delenv("ESPER_LEYLINE_SECRET", raising=False)
    monkeypatch.setattr(arm, "add_seed_groups", fail)
    assert digest_of(tmp_path / "run", "--grow", "always") == ungrown_digest
    failed = [event for event in events(tmp_path / "run", "directive") if not event["succeeded"]]
    assert {event["failure"] for event in failed} == {"injected"}


def test_a_decision_is_one_trace_from_its_evaluation_to_the_graft(grown: Grown) -> None:
    grafts = [span for span in grown.spans if span.name == "executor.graft"]
    assert grafts
    ours = [span for span in grown.spans if span.trace_id == grafts[0].trace_id]
    assert {(span.service, span.name) for span in ours} >= DECISION
    by_id = {span.span_id: span for span in ours}
    execution = by_id[grafts[0].parent_id]
    assert execution.name == "tolaria.execute"
    applied = "esper.leyline.v1.KasminaService/ApplyCommand"
    assert ancestors(execution, by_id)[:4] == [applied, applied, "tolaria.relay", "tamiyo.evaluate"]
    assert len(execution.links) == 1
    command_id = execution.attributes["esper.command.id"]
    assert command_id.startswith("run-g1-c")
    assert grafts[0].attributes["esper.command.id"] == command_id
    assert {"esper.seed.id", "esper.step"} <= set(grafts[0].attributes)
    assert execution.attributes["esper.run.id"] == "run"


def test_a_run_that_is_over_leaves_no_line_to_its_services(grown: Grown) -> None:
    assert (grown.run_dir / LINE).parent.is_dir()
    assert not (grown.run_dir / LINE).exists()
