from __future__ import annotations

import re

from esper.leyline import RiskReason
from esper.tamiyo.metrics import EVENTS, METRICS, RISK_EVENTS


def test_every_name_is_declared_once() -> None:
    for specs in (METRICS, EVENTS):
        names = [spec.name for spec in specs]
        assert len(names) == len(set(names))


def test_metrics_are_named_for_their_source_and_have_a_unit_and_a_meaning() -> None:
    for spec in METRICS:
        assert re.fullmatch(r"tamiyo\.[a-z0-9_.]+", spec.name), spec.name
        assert spec.unit
        assert spec.help


def test_the_names_that_dashboards_rely_on_are_there() -> None:
    names = {spec.name for spec in METRICS} | {spec.name for spec in EVENTS}
    assert names >= {
        "tamiyo.gnn.feature_coverage",
        "tamiyo.gnn.feature_coverage.loss",
        "tamiyo.coverage.feature.avg",
        "tamiyo.coverage.feature.min",
        "tamiyo.coverage.feature.max",
        "tamiyo.coverage.group.gradient",
        "tamiyo.coverage.missing",
        "tamiyo.inference.latency_ms",
        "tamiyo.gnn.inference.latency_ms",
        "tamiyo.policy.risk_score",
        "tamiyo.blueprint.risk",
        "tamiyo.conservative_mode",
        "tamiyo.field_reports.pending_total",
        "degraded_inputs",
        "conservative_entered",
        "conservative_exited",
        "loss_spike",
        "isolation_violations",
        "timeout_inference",
        "timeout_urza",
        "bp_quarantine",
        "bsds_hazard_critical",
        "policy_update_applied",
        "policy_update_rejected",
        "field_report_retry",
        "field_report_drop",
        "command_rejected",
    }


def test_every_reason_that_a_rule_can_give_has_an_event() -> None:
    assert set(RiskReason.values()) - {RiskReason.RISK_REASON_UNSPECIFIED} == set(RISK_EVENTS)
