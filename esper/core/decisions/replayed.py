"""What became of a recorded decision when it was made again: where it differs, and in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from esper.core.decisions.decision_ledger import Decided
from esper.core.decisions.decisions import in_words
from esper.leyline import AdaptationCommand, Decision, SignedCommand


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A decision, and the state that it leaves."""

    decision: Message
    after: Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """A row decided again."""

    row: Decided
    given: Message
    recorded: Outcome
    now: Outcome
    version: int
    """Of the rules that decided now."""

    @property
    def differences(self) -> list[str]:
        """ "PATH: recorded -> now" of every field that differs, the decision's first."""
        return [
            *differences(self.recorded.decision, self.now.decision),
            *differences(self.recorded.after, self.now.after, "state"),
        ]

    @property
    def inputs_differ(self) -> bool | None:
        """Whether a policy saw other inputs than before; None of a decision that has no digest of them."""
        was, now = self.recorded.decision, self.now.decision
        if not isinstance(was, Decision) or not isinstance(now, Decision):
            return None
        return was.metadata.policy.observation_digest != now.metadata.policy.observation_digest

    @property
    def is_told(self) -> bool:
        """Whether the row was decided under rules of another version, which may decide otherwise."""
        return self.row.version != self.version


def differences(recorded: Message, now: Message, path: str = "") -> list[str]:
    """Fields that differ, at any depth."""
    return list(_differences(recorded, now, path))


def _differences(recorded: Message, now: Message, path: str) -> Iterator[str]:
    if recorded.SerializeToString(deterministic=True) == now.SerializeToString(deterministic=True):
        return
    if isinstance(recorded, SignedCommand) and isinstance(now, SignedCommand):
        yield from _differences(_opened(recorded), _opened(now), path)
        return
    for field in recorded.DESCRIPTOR.fields:
        here = f"{path}.{field.name}" if path else field.name
        if field.is_repeated:
            yield from _of_lists(list(getattr(recorded, field.name)), list(getattr(now, field.name)), field, here)
            continue
        was, is_now = _set(recorded, field), _set(now, field)
        if field.message_type is not None and was is not None and is_now is not None:
            yield from _differences(was, is_now, here)
        elif not _same(was, is_now, field):
            yield f"{here}: {_told(was, field)} -> {_told(is_now, field)}"


def _of_lists(recorded: list[Any], now: list[Any], field: Any, path: str) -> Iterator[str]:
    for at in range(max(len(recorded), len(now))):
        was, is_now = (found[at] if at < len(found) else None for found in (recorded, now))
        here = f"{path}[{at}]"
        if field.message_type is not None and was is not None and is_now is not None:
            yield from _differences(was, is_now, here)
        elif not _same(was, is_now, field):
            yield f"{here}: {_told(was, field)} -> {_told(is_now, field)}"


def _opened(envelope: SignedCommand) -> AdaptationCommand:
    return AdaptationCommand.FromString(envelope.payload)


def _set(message: Message, field: Any) -> Any:
    return getattr(message, field.name) if not field.has_presence or message.HasField(field.name) else None


def _same(was: object, is_now: object, field: Any) -> bool:
    if field.message_type is not None:
        return was is None and is_now is None
    return was == is_now or (was != was and is_now != is_now)  # not a number is the same as itself here


def _told(value: object, field: Any) -> str:
    if value is None:
        return "nothing"
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(int(str(value)))
        return named.name if named else str(value)
    if isinstance(value, SignedCommand):
        return in_words(_opened(value))
    if isinstance(value, Message):
        return "{" + " ".join(str(value).split()) + "}"
    return repr(value)
