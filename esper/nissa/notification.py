"""A notification: that an alert was raised or cleared, and its words for a receiver.

The message has the form that Prometheus' Alertmanager gives to webhooks (version 4), so that whatever takes those takes
these; `text` says the same in a line for each, for people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from esper.core.clock import utc_text
from esper.nissa.alerts import Alert

NEVER = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, kw_only=True, slots=True)
class Notification:
    """One change of an alert. Times are Unix times in nanoseconds."""

    alert: Alert
    value: float
    raised_ns: int
    cleared_ns: int = 0
    """0 for one that was raised."""

    @property
    def is_raised(self) -> bool:
        return not self.cleared_ns

    @property
    def at_ns(self) -> int:
        """When it happened."""
        return self.cleared_ns or self.raised_ns

    @property
    def fingerprint(self) -> str:
        """Of the alert: the same for its clearing, and after a restart."""
        return hashlib.sha256("\0".join(self.alert.key).encode()).hexdigest()[:16]


def message(receiver: str, notifications: Sequence[Notification]) -> bytes:
    """What a receiver is given of some notifications, in their order."""
    is_firing = any(each.is_raised for each in notifications)
    told: dict[str, Any] = {
        "version": "4",
        "groupKey": "esper",
        "receiver": receiver,
        "status": "firing" if is_firing else "resolved",
        "truncatedAlerts": 0,
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "",
        "alerts": [_as_alertmanager_does(each) for each in notifications],
        "text": "\n".join(map(in_words, notifications)),
    }
    return json.dumps(told).encode()


def in_words(notification: Notification) -> str:
    """One line for people."""
    alert = notification.alert
    status = "firing" if notification.is_raised else "cleared"
    place = ", ".join(filter(None, [alert.source, alert.run and f"run {alert.run}", alert.event]))
    return f"{status}: {alert.rule} ({place}): {alert.help}"


def _as_alertmanager_does(notification: Notification) -> dict[str, Any]:
    alert = notification.alert
    labels = {"alertname": alert.rule, "severity": alert.severity, "source": alert.source}
    labels |= {name: value for name, value in (("run", alert.run), ("event", alert.event)) if value}
    return {
        "status": "firing" if notification.is_raised else "resolved",
        "labels": labels | {"route": ",".join(alert.routes)},
        "annotations": {
            "summary": alert.help,
            "value": f"{notification.value:g}",
            "threshold": f"{alert.threshold:g}",
        },
        "startsAt": utc_text(notification.raised_ns),
        "endsAt": utc_text(notification.cleared_ns) if notification.cleared_ns else NEVER,
        "generatorURL": "",
        "fingerprint": notification.fingerprint,
    }


def to_plain(notification: Notification) -> dict[str, Any]:
    """As data of JSON."""
    return asdict(notification)


def from_plain(data: Mapping[str, Any]) -> Notification:
    """The way back. Raises TypeError or KeyError for what is none."""
    alert = Alert(**{**data["alert"], "routes": tuple(data["alert"]["routes"])})
    return Notification(**{**data, "alert": alert})
