"""What Simic did, as telemetry."""

from __future__ import annotations

from collections.abc import Sequence

from esper.core.clock import SYSTEM_CLOCK
from esper.core.telemetry import build_packet, event, metric
from esper.leyline import Event, Metric, PolicyUpdate
from esper.rpc.reporting.telemetry import Reporter
from esper.simic import metrics
from esper.simic.dataset import Dataset
from esper.simic.replay import ReplayStore
from esper.simic.validation import Validation

SOURCE = "simic"


def tell_collected(reporter: Reporter, store: ReplayStore) -> None:
    found = [
        metric(metrics.REPORTS, len(store)),
        metric(metrics.REFUSED, len(store.refusals())),
        metric(metrics.REPEATED, store.intake.repeated),
        metric(metrics.DROPPED, store.intake.dropped),
    ]
    _send(reporter, found, [])


def tell_trained(
    reporter: Reporter, data: Dataset, validation: Validation, *, price: float, version: str, digest: str
) -> None:
    count = len(data)
    found = [metric(metrics.DECISIONS, count), metric(metrics.VALIDATION, float(validation.passed))]
    if count:
        found.append(metric(metrics.REWARD, float(data.rewards(price).mean())))
    if (learned := validation.values.get("learned")) is not None:
        found += [
            metric(metrics.EXPLAINED, validation.explained),
            metric(metrics.VALUE, learned.value),
            metric(metrics.VALUE_ERROR, learned.error),
        ]
    if validation.passed:
        told = event(metrics.TRAINED, SYSTEM_CLOCK, version=version, digest=digest, decisions=count)
    else:
        reasons = "; ".join(check.name for check in validation.checks if not check.holds)
        told = event(metrics.FAILED, SYSTEM_CLOCK, reasons=reasons, decisions=count)
    _send(reporter, found, [told])


def tell_published(reporter: Reporter, update: PolicyUpdate) -> None:
    told = event(metrics.PUBLISHED, SYSTEM_CLOCK, update_id=update.update_id, version=update.version)
    _send(reporter, [], [told])


def _send(reporter: Reporter, found: Sequence[Metric], events: Sequence[Event]) -> None:
    reporter.send(build_packet(SOURCE, SYSTEM_CLOCK, metrics=found, events=events))
