"""What is declared and not used, and why it may stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tools.declared.reader import Uses
from tools.declared.schema import FIELDS, VALUES, ordered, shown

MEANING = {
    "unread": "nobody reads it: read it, or remove it from the proto and reserve number and name",
    "unwritten": "nobody writes it: write it, or remove it from the proto and reserve number and name",
    "values": "nothing produces it: produce it, or remove it from the proto and reserve number and name",
    "unemitted": "it is declared and nobody emits it",
}


def findings(uses: Uses, registered: Iterable[tuple[str, str]] = ()) -> dict[str, list[str]]:
    """By kind, what nobody uses; `registered` are the constants of metrics and events, and what each is called."""
    return {
        "unread": _unused(uses.read, but=shown()),
        "unwritten": _unused(uses.written, but=ordered()),
        "values": sorted(VALUES - uses.produced),
        "unemitted": sorted(declared for name, declared in registered if uses.names[name] == 0),
    }


def _unused(used: set[tuple[str, str]], *, but: set[str]) -> list[str]:
    fields = ((message, field) for message in FIELDS.keys() - but for field in FIELDS[message])
    return sorted(f"{message}.{field}" for message, field in fields if (message, field) not in used)


def compared(found: Mapping[str, list[str]], excused: Mapping[str, Mapping[str, str]], table: str) -> list[str]:
    """A line for everything that is unused without an excuse, and for every excuse that nothing needs."""
    return [
        line
        for kind, names in found.items()
        for line in (
            *(
                f"{name}: {MEANING[kind]}; or say why not in {table} under [{kind}]"
                for name in names
                if name not in excused.get(kind, {})
            ),
            *(
                f"{name}: is used now: take it out of {table} under [{kind}]"
                for name in sorted(excused.get(kind, {}).keys() - set(names))
            ),
        )
    ]
