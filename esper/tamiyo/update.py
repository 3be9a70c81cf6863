"""Updates of the policy: new thresholds for one run, or the reason why the live ones stay."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from esper.core.errors import DependencyViolationError
from esper.leyline import PolicyUpdate, PolicyUpdateRejection, TamiyoRunState
from esper.tamiyo.trigger import setting_violations, updated
from esper.urza.catalog import Catalog


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why an update isn't taken."""

    reason: PolicyUpdateRejection
    detail: str


def with_update(
    state: TamiyoRunState, update: PolicyUpdate, *, policy_id: str, catalog: Catalog
) -> TamiyoRunState | Refusal:
    """The state under new thresholds, or the refusal."""
    refusal = _refusal(state, update, policy_id, catalog)
    if refusal is not None:
        return refusal
    after = TamiyoRunState()
    after.CopyFrom(state)
    after.trigger.CopyFrom(updated(state.trigger, update.trigger))
    after.policy_version = update.version
    return after


def _refusal(state: TamiyoRunState, update: PolicyUpdate, policy_id: str, catalog: Catalog) -> Refusal | None:
    if update.policy_id != policy_id:
        detail = f"the update is for {update.policy_id!r}, {policy_id!r} is in force"
        return Refusal(reason=PolicyUpdateRejection.POLICY_UPDATE_REJECTION_UNKNOWN_POLICY, detail=detail)
    if update.HasField("weights"):
        return _weights_refusal(update)
    found = setting_violations(update.trigger) + _unknown_blueprints(update, catalog)
    number = version_number(update.version)
    if number is None:
        found.append(f"version {update.version!r}: dotted whole numbers are needed, e.g. 1.2.0")
    if found:
        return Refusal(reason=PolicyUpdateRejection.POLICY_UPDATE_REJECTION_INVALID_SETTINGS, detail="; ".join(found))
    if number is not None and number <= (version_number(state.policy_version) or ()):
        detail = f"version {update.version} is not newer than {state.policy_version}"
        return Refusal(reason=PolicyUpdateRejection.POLICY_UPDATE_REJECTION_STALE_VERSION, detail=detail)
    return None


def version_number(version: str) -> tuple[int, ...] | None:
    """A dotted version as numbers, so that 1.10 follows 1.9; None if it isn't one."""
    parts = version.split(".")
    return tuple(int(part) for part in parts) if all(part.isascii() and part.isdigit() for part in parts) else None


def _weights_refusal(update: PolicyUpdate) -> Refusal:
    if hashlib.sha256(update.weights).hexdigest() != update.weights_digest:
        return Refusal(
            reason=PolicyUpdateRejection.POLICY_UPDATE_REJECTION_DIGEST_MISMATCH,
            detail="weights_digest isn't the SHA-256 of weights",
        )
    return Refusal(
        reason=PolicyUpdateRejection.POLICY_UPDATE_REJECTION_UNSUPPORTED_WEIGHTS,
        detail="a run keeps the weights that it was opened with; new ones come over the policy lane, for new runs",
    )


def _unknown_blueprints(update: PolicyUpdate, catalog: Catalog) -> list[str]:
    found = []
    for blueprint_id in update.trigger.blueprint_ids:
        try:
            catalog.get(blueprint_id)
        except DependencyViolationError as error:
            found.append(str(error))
    return found
