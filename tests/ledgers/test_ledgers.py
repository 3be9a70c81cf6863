"""Every version's ledgers, decided again: a decision that changes without a version that says so fails here."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from esper import __version__
from esper.cli.main import main
from esper.core.decisions.decision_ledger import Decided, rows
from esper.core.decisions.replayed import Replayed
from esper.kasmina.control.ledger import replay as kasmina
from esper.kasmina.control.stages import gates
from esper.leyline import (
    AdaptationCommand,
    AdvanceResponse,
    CommandOutcome,
    Decision,
    DecisionReason,
    GateVerdict,
    RiskReason,
    SeedGate,
)
from esper.tamiyo import replay as tamiyo
from esper.tamiyo.config import RiskLimits, TamiyoConfig, Thresholds
from tests.ledgers.record import HERE, SERVICES, unpacked
from tests.scenarios import gate_player, policy_player
from tests.scenarios.reading import Seen, files, read

VERSIONS = sorted(path.name for path in HERE.iterdir() if (path / "tamiyo.db.xz").exists())
RULES = {"tamiyo": tamiyo, "kasmina": kasmina}
NOW = {service: rules.DECISION_VERSION for service, rules in RULES.items()}
HOW = "raise DECISION_VERSION in {0.__name__}, say it in CHANGELOG.md, and run `python -m tests.ledgers.record`"


@pytest.fixture(scope="module", params=VERSIONS)
def ledgers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(HERE / request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledgers of the version under way."""
    return unpacked(HERE / __version__, tmp_path_factory.mktemp("own"))


@pytest.mark.parametrize("service", SERVICES)
def test_what_was_decided_is_decided_again(ledgers: Path, service: str) -> None:
    different = [again for again in RULES[service].replay(rows(ledgers / f"{service}.db")) if again.differences]
    unsaid = [_in_words(again) for again in different if not again.is_told]
    assert unsaid == [], HOW.format(RULES[service])


def _in_words(again: Replayed) -> str:
    return f"{again.row.run_id} at step {again.row.step}: {'; '.join(again.differences)}"


@pytest.mark.parametrize("service", SERVICES)
def test_the_version_under_way_has_a_ledger_of_the_rules_of_now(own: Path, service: str) -> None:
    assert {row.version for row in rows(own / f"{service}.db")} == {NOW[service]}, HOW.format(RULES[service])


def test_the_ledgers_hold_every_reason_risk_gate_and_action(own: Path) -> None:
    decisions = [Decision.FromString(row.decision) for row in rows(own / "tamiyo.db")]
    reasons = {reason for decision in decisions for reason in decision.metadata.reasons}
    # The heuristic decides there, and draws nothing: tests/unit/tamiyo/learned.
    unmet = {DecisionReason.DECISION_REASON_EXPLORED, DecisionReason.DECISION_REASON_LEARNED}
    assert reasons == set(DecisionReason.values()) - {DecisionReason.DECISION_REASON_UNSPECIFIED} - unmet
    risks = {finding.reason for decision in decisions for finding in decision.metadata.risk.findings}
    # No blueprint of the built-in catalogue is a hazard.
    unseen = {RiskReason.RISK_REASON_UNSPECIFIED, RiskReason.RISK_REASON_HAZARD_HIGH}
    assert risks == set(RiskReason.values()) - unseen

    advances, orders = [], []
    for row in rows(own / "kasmina.db"):
        if row.kind == kasmina.ADVANCE:
            advances.append(AdvanceResponse.FromString(row.decision))
        else:
            orders.append((AdaptationCommand.FromString(row.given), CommandOutcome.FromString(row.decision)))
    asked = {(gate.gate, gate.verdict) for answer in advances for gate in answer.gates}
    gates_asked = {gate for gate, verdict in asked if verdict == GateVerdict.GATE_VERDICT_FAIL}
    assert gates_asked == set(SeedGate.values()) - {SeedGate.SEED_GATE_UNSPECIFIED}
    actions = {field.name for field in AdaptationCommand.DESCRIPTOR.oneofs_by_name["action"].fields}
    assert {command.WhichOneof("action") for command, _ in orders} == actions
    assert {True, False} == {outcome.accepted for _, outcome in orders}


@pytest.fixture
def changed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Rules with another threshold; gives the service that has them."""
    name = str(request.param)
    if name == "flat slope":
        monkeypatch.setitem(Thresholds.__init__.__kwdefaults__, "slope", 0.3)
    elif name == "loss spike":
        monkeypatch.setitem(RiskLimits.__init__.__kwdefaults__, "loss_rise_spike", 0.9)
    else:
        monkeypatch.setattr(gates, "HARM_Z", 3.0)
    return "kasmina" if name == "harmful seed" else "tamiyo"


each_change = pytest.mark.parametrize("changed", ["flat slope", "loss spike", "harmful seed"], indirect=True)


@each_change
def test_a_changed_threshold_is_found_and_told_with_both_decisions_and_their_inputs(
    changed: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ledger", "replay", str(own / f"{changed}.db")]) == 1
    said = capsys.readouterr().out.splitlines()
    first = next(at for at, line in enumerate(said) if " row " in line)
    assert said[first].startswith(f"{changed}.db row ")
    assert said[first + 1].startswith("  recorded  ")
    assert said[first + 2].startswith("  now       ")
    assert any(line.startswith('  input     {"') for line in said)
    assert any(line.startswith('  state     {"') for line in said)
    assert " differ" in said[-1]
    assert " 0 differ" not in said[-1]


@each_change
def test_a_version_that_says_so_allows_it(
    changed: str, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(RULES[changed], "DECISION_VERSION", NOW[changed] + 1)
    assert main(["ledger", "replay", str(own)]) == 0
    said = capsys.readouterr().out
    assert "decisions, 0 differ, " in said
    assert "otherwise by another version" in said
    assert f"(version {NOW[changed]}, now {NOW[changed] + 1})" in said


def test_what_an_operator_set_is_no_changed_rule() -> None:
    set_by_hand = TamiyoConfig(
        classification=Thresholds(slope=0.1), risk=RiskLimits(loss_noise=0.5), telemetry_every_packets=3
    )
    recorded = tamiyo.own_settings(set_by_hand)
    assert recorded == {"classification": {"slope": 0.1}, "risk": {"loss_noise": 0.5}, "telemetry_every_packets": 3}
    assert tamiyo.with_settings(recorded) == set_by_hand
    assert tamiyo.own_settings(TamiyoConfig()) == {}


def test_a_learned_policy_is_not_judged_by_rules_it_does_not_have(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.db"
    copy.write_bytes((own / "tamiyo.db").read_bytes())
    with closing(sqlite3.connect(copy)) as connection, connection:
        learned = "replace(circumstances, 'heuristic', 'learned-1')"
        connection.execute(f"UPDATE decisions SET circumstances = {learned} WHERE seq <= 3")
    assert main(["ledger", "replay", str(copy)]) == 0
    assert "3 of learned policies not replayed" in capsys.readouterr().out


DAMAGE = {
    "UPDATE decisions SET record = substr(record, 1, 40) WHERE seq = 5": "row 5 is damaged",
    "UPDATE decisions SET record = x'00' WHERE seq = 1": "row 1 is damaged",
    "UPDATE decisions SET circumstances = '{' WHERE seq = 2": "row 2 is damaged",
    "UPDATE decisions SET kind = 'guess' WHERE seq = 3": "row 3 is of kind 'guess'",
    "DELETE FROM decision_specs": "the spec of run",
    "DELETE FROM decisions": "holds no decisions",
    "DROP TABLE decisions": "can't be read as a ledger of decisions",
}


@pytest.mark.parametrize(("statement", "said"), DAMAGE.items())
def test_damage_is_told_and_never_taken_for_agreement(
    statement: str, said: str, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "kasmina.db"
    copy.write_bytes((own / "kasmina.db").read_bytes())
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute(statement)
    assert main(["ledger", "replay", str(copy)]) == 1
    assert said in capsys.readouterr().err


def test_a_place_without_a_ledger_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "replay", str(tmp_path)]) == 78
    assert "tamiyo.db or kasmina.db" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("no database")
    assert main(["ledger", "replay", str(tmp_path / "notes.txt")]) == 1


def test_tamiyo_keeps_every_decision_on_a_packet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = (path for path in files("policy") if path.stem == "conflicting_gradients")
    scene = read(path, policy_player.Scene, policy_player.Stage)
    policy_player.play(scene, tmp_path, Seen())
    kept = list(rows(tmp_path / "tamiyo.db"))
    assert len(kept) == sum(stage.packets for stage in scene.then)
    assert len({(row.run_id, row.step) for row in kept}) == len(kept)
    assert main(["ledger", "replay", str(tmp_path)]) == 0
    assert f"{len(kept)} decisions, 0 differ" in capsys.readouterr().out


def test_kasmina_keeps_every_advance_and_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = (path for path in files("gates") if path.stem == "resumed_under_the_next_generation")
    scene = read(path, gate_player.Scene, gate_player.Stage)
    gate_player.play(scene, tmp_path, Seen())
    kept = list(rows(tmp_path / "kasmina.db"))
    assert sum(row.kind == kasmina.ADVANCE for row in kept) == sum(stage.boundaries for stage in scene.then)
    assert any(row.kind == kasmina.COMMAND for row in kept)
    assert len({row.generation for row in kept}) > 1
    assert main(["ledger", "replay", str(tmp_path)]) == 0
    assert f"{len(kept)} decisions, 0 differ" in capsys.readouterr().out


def test_a_row_stands_by_itself(own: Path) -> None:
    """Rows that went out at the ledger's end are missed by none that stays."""
    late: list[Decided] = [row for row in rows(own / "kasmina.db") if row.run_id == "digits"][-5:]
    assert len(late) == 5
    assert [again.differences for again in kasmina.replay(late)] == [[]] * 5
