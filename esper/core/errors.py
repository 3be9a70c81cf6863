"""The one error tree.

EsperError
  ConfigError                    names the key, the value, and what to do
  ContractError                  a message lacks or misuses a field; carries every violation
    UnparsableMessage            bytes that are no such message
    InvalidAnswer                it came from a peer, as the answer to a call
  DependencyViolationError       an id, blueprint, artefact or run is missing: no substitute is made
    KernelsNotBuilt              the compiled operators are absent
    ServiceUnavailable           a peer can't be reached
  UntrustedBlueprint             no accepted key has signed a user's own blueprint as it stands
  AccessDenied                   a token is missing or wrong
  BackPressure                   the receiver can't take more now
  CommandRejected                refused before it was believed
    MissingSignature  InvalidSignature  NonceReplayed  StaleCommand  FutureCommand
    CommandIdReused
  LifecycleConflict              a stage, slot or generation doesn't allow it
  GraftFailed                    a graft, fold or removal was undone
  StepFailed                     a training step can't be used
    NonFiniteLoss  LossDiverged
  RollbackFailed                 no state could be restored
    RollbackLate                 none within its deadline
  LeftProcess                    code of the user's own called sys.exit inside a run
  PlaneNotNormal                 the plane's mode, or an open emergency, forbids it
  RunContradicted                the network at a run's end is not the one that was told of
  RankLost                       another process of the run is gone, or doesn't keep up
  RanksDiffer                    the processes of a run don't hold the same
  AsyncTimeoutError              also a TimeoutError
  StorageError                   a file or database can't be used
    CorruptRecord                what was stored is damaged
    UnwritableStorage            nothing more can be written: no room, or no right to
    ForbiddenStorage             this user may not read or write it
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from esper.core.lasted import lasted_ms


class EsperError(Exception):
    """Root of everything that Esper raises on purpose."""


class ConfigError(EsperError):
    """A setting can't be used. `key` is the setting, `value` what arrived, `remedy` what to do."""

    def __init__(self, key: str, value: object, remedy: str) -> None:
        said = str(value) if isinstance(value, PurePath) else value
        super().__init__(f"{key} = {said!r}: {remedy}")
        self.key = key
        self.value = value
        self.remedy = remedy


class ContractError(EsperError):
    """A message lacks or misuses fields. `violations` names each of them."""

    def __init__(self, message_type: str, violations: Sequence[str]) -> None:
        super().__init__(f"{message_type}: {'; '.join(violations)}")
        self.message_type = message_type
        self.violations = tuple(violations)


class UnparsableMessage(ContractError):
    """What arrived is no serialized message of the type that was expected."""


class InvalidAnswer(ContractError):
    """A peer answered with a message that can't be used, or that answers something else."""


class DependencyViolationError(EsperError):
    """Something that must be there is not. `kind` says what, `identifier` which one."""

    def __init__(self, subsystem: str, kind: str, identifier: str, remedy: str) -> None:
        super().__init__(f"{subsystem}: {kind} {identifier!r} is missing; {remedy}")
        self.subsystem = subsystem
        self.kind = kind
        self.identifier = identifier
        self.remedy = remedy


class KernelsNotBuilt(DependencyViolationError, ImportError):
    """The compiled operators are absent."""


class ServiceUnavailable(DependencyViolationError):
    """A peer can't be reached or answers that it can't serve."""


class UntrustedBlueprint(EsperError):
    """A user's own blueprint is not believed: its factory isn't loaded. `remedy` says what to do."""

    def __init__(self, blueprint_id: str, why: str, remedy: str) -> None:
        super().__init__(f"blueprint {blueprint_id!r} is not believed: {why}; {remedy}")
        self.blueprint_id = blueprint_id
        self.why = why
        self.remedy = remedy


class AccessDenied(EsperError):
    """A token is missing, wrong, or for another run or service."""


class BackPressure(EsperError):
    """The receiver can't take more now; `retry_after_s` says when to try again."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class CommandRejected(EsperError):
    """A command was refused before it was believed. `reason` is a RejectionReason value."""

    def __init__(self, reason: int, detail: str, command_id: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.command_id = command_id


class MissingSignature(CommandRejected):
    """No security block, signature, nonce or time."""


class InvalidSignature(CommandRejected):
    """Unknown key, wrong signature, audience or payload type: alike to the caller."""


class NonceReplayed(CommandRejected):
    """The nonce was used before, or lies below the fence."""


class StaleCommand(CommandRejected):
    """Outside its freshness window."""


class FutureCommand(CommandRejected):
    """Issued further ahead than clocks may differ."""


class CommandIdReused(CommandRejected):
    """A known id with another payload."""


class LeftProcess(EsperError):
    """Code of the user's own called sys.exit inside a run. `code` is what it gave, `place` says where."""

    def __init__(self, code: object, place: str) -> None:
        super().__init__(f"sys.exit({code!r}) was called ({place}); a run's own code must raise an error instead")
        self.code = code
        self.place = place


class LifecycleConflict(EsperError):
    """A stage, slot or generation doesn't allow it."""


class GraftFailed(EsperError):
    """A graft, fold or removal failed and was undone: the host is as before."""


class StepFailed(EsperError):
    """A training step can't be used. `step` is the number of steps done before it."""

    def __init__(self, step: int, detail: str) -> None:
        super().__init__(f"step {step}: {detail}")
        self.step = step


class NonFiniteLoss(StepFailed):
    """The training loss is NaN or infinite."""


class LossDiverged(StepFailed):
    """The smoothed training loss has left what it ever was."""


class RollbackFailed(EsperError):
    """No state could be restored."""


class RollbackLate(RollbackFailed):
    """A restore missed its deadline. `tier` is where it read from; times are in milliseconds."""

    def __init__(self, tier: str, deadline_ms: float, elapsed_ms: float) -> None:
        super().__init__(
            f"the restore from {tier} took {lasted_ms(elapsed_ms)}; its deadline is {lasted_ms(deadline_ms)}"
        )
        self.tier = tier
        self.deadline_ms = deadline_ms
        self.elapsed_ms = elapsed_ms


class PlaneNotNormal(EsperError):
    """The plane's mode forbids it: someone has to acknowledge an emergency, or to see what is wrong with a service."""


class RunContradicted(EsperError):
    """The network at the end of a run is not the one that was judged or told of."""


class RankLost(EsperError):
    """Another rank of the run is gone, or doesn't keep up. `ranks` are those that gave no sign of life."""

    def __init__(self, detail: str, ranks: Sequence[int] = ()) -> None:
        super().__init__(detail)
        self.ranks = tuple(ranks)


class RanksDiffer(EsperError):
    """The ranks of a run don't hold the same: to go on would train networks that differ."""


class AsyncTimeoutError(EsperError, TimeoutError):
    """A task or call missed its deadline."""

    def __init__(self, what: str, timeout_s: float) -> None:
        super().__init__(f"{what} took longer than {timeout_s:g} s")
        self.what = what
        self.timeout_s = timeout_s


class StorageError(EsperError):
    """A file or database can't be used."""


class CorruptRecord(StorageError):
    """What was stored is damaged, and not just cut off at its end."""


class UnwritableStorage(StorageError):
    """Nothing more can be written, for want of room or of the right to; what was written stands."""


class ForbiddenStorage(StorageError):
    """The system lets this user not read or write a file or directory."""


class DoubtWarning(UserWarning):
    """What a person should look at before a run: it can be trained, but its figures may not mean what they seem to."""
