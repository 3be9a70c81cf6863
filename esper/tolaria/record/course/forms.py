"""What an event must hold to be read: a line that holds less, or something else, counts as damaged.

Of each kind, the fields that readers take for granted; what else there is may be anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

NUMBER = (int, float)
FIGURE = (*NUMBER, NoneType)
Form = type | tuple[type, ...] | Mapping[str, Any] | list[Any]
"""A type or several, a mapping with these fields, or a list of such values; a name that ends in `?` may be absent."""

SEED = {"seed_id": str, "slot_id": str, "stage": str, "alpha": NUMBER}
REASON = {"reason": str, "detail": str}
FORMS: Mapping[str, Mapping[str, Any]] = {
    "resumed": {"step": int, "smoothing?": FIGURE},
    "rollback": {"step": int},
    "run": {"smoothing?": FIGURE},
    "network": {
        "parameters": NUMBER,
        "layers": [{"path": str, "kind": str, "width": NUMBER, "parameters": NUMBER}],
        "slots": [{"slot_id": str}],
        "refused": [str],
    },
    "boundary": {
        "step": int,
        "loss": NUMBER,
        "seeds": [SEED],
        "macs?": {"main?": NUMBER, "twin?": NUMBER, "side?": NUMBER, "undone?": NUMBER},
        "timings?": {"step_ms?": NUMBER, "packet_ms?": NUMBER, "directives_ms?": NUMBER, "wait_ms?": NUMBER},
    },
    "twin": {"seed_id": str, "from_step": int, "losses": [FIGURE]},
    "epoch": {"step": int, "growth?": REASON},
    "growth": {"step": int, **REASON},
    "evaluation": {"seed_id": str, "step": int, "gain": object, "standard_error": object},
    "directive": {"seed_id": str, "directive": str},
    "command": {"command_id": str, "accepted": bool, "directives?": [str], "reasons?": [str]},
    "transition": {"seed_id": str, "step": int, "to_stage": str, "reason": str},
    "gate": {
        "seed_id": str,
        "gate": str,
        "verdict": str,
        "step": int,
        **{f"{name}?": FIGURE for name in ("gain", "margin", "z", "z_threshold", "standard_error")},
    },
}


def is_event(found: Any) -> bool:
    """Whether what a line held is an event of a kind, with what that kind's readers need."""
    kind = found.get("kind") if isinstance(found, dict) else None
    return isinstance(kind, str) and has_form(found, FORMS.get(kind, {}))


def has_form(value: Any, form: Form) -> bool:
    if isinstance(form, Mapping):
        return isinstance(value, Mapping) and all(_holds(value, name, inner) for name, inner in form.items())
    if isinstance(form, list):
        return isinstance(value, list) and all(has_form(each, form[0]) for each in value)
    return isinstance(value, form)


def _holds(value: Mapping[str, Any], name: str, form: Form) -> bool:
    if name.endswith("?"):
        return name[:-1] not in value or has_form(value[name[:-1]], form)
    return name in value and has_form(value[name], form)
