"""How new weights come into force, and go again: verified, loaded, tried in the shadow, swapped in, rolled back.

Each step is on the disk before it counts, so that a restart finds the policy that was in force. Runs that are open keep
the policy that they were opened with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from esper.core.clock import nanoseconds, utc_text
from esper.core.enums import short_name
from esper.core.errors import EsperError
from esper.core.lasted import lasted_ms
from esper.core.telemetry import AttributeValue, EventSpec
from esper.core.tracing import context_of, current_trace, tracer
from esper.leyline import FieldReport, PolicyUpdate, PolicyUpdateRejection, TraceContext
from esper.tamiyo import metrics
from esper.tamiyo.growing.obstacles import GUESSES, first_obstacle
from esper.tamiyo.learned.arrays import np
from esper.tamiyo.learned.linear import Layout
from esper.tamiyo.learned.policies import Policies
from esper.tamiyo.learned.policy import LearnedPolicy
from esper.tamiyo.learned.reward import PRICE, worth_of
from esper.tamiyo.learned.standing import HEURISTIC, KEPT_REWARDS, Trial
from esper.tamiyo.learned.weights import FEATURE_NAMES, Weights, WeightsRefused, digest_of, read_weights
from esper.tamiyo.policy import View
from esper.tamiyo.update import Refusal, version_number

SHADOW_LIMIT_MS = 100.0
"""A single decision in the shadow that takes longer ends the trial."""
ROLLBACK_Z = 1.645
"""One-sided, 5 %: how sure it must be that decisions are worse before weights are rolled back."""
_DRY_ROWS = 64
_UNSOUND = frozenset(
    {
        PolicyUpdateRejection.POLICY_UPDATE_REJECTION_DIGEST_MISMATCH,
        PolicyUpdateRejection.POLICY_UPDATE_REJECTION_INVALID_WEIGHTS,
        PolicyUpdateRejection.POLICY_UPDATE_REJECTION_UNKNOWN_POLICY,
    }
)
"""Nothing was decided about a version: as where a command doesn't parse, its nonce alone is spent."""
_tracer = tracer("esper.tamiyo")
Tell = Callable[[EventSpec, dict[str, AttributeValue]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """How a policy's decisions fared."""

    count: int
    mean: float
    error: float

    @property
    def words(self) -> str:
        return f"{self.mean:.3g} ± {self.error:.2g} in {self.count} decisions"


class Adoption:
    """Takes updates in, tries them, and watches what is in force."""

    def __init__(self, policies: Policies, *, shadow_decisions: int, rollback_after: int, tell: Tell) -> None:
        self._policies = policies
        self._standing = policies.shelf.standing
        self._shadow_decisions = shadow_decisions
        self._rollback_after = rollback_after
        self._tell = tell
        trial = self._standing.trial
        self._tried: LearnedPolicy | None = policies.learned(trial.digest) if trial is not None else None

    def take(self, update: PolicyUpdate) -> Refusal | None:
        """Begin to try an authentic update, or say why not. What was decided about it is remembered either way."""
        try:
            weights = self._verified(update)
        except WeightsRefused as error:
            return self.refuse(update.update_id, update.version, error.reason, str(error))
        shelf, standing = self._policies.shelf, self._standing
        shelf.put(weights.digest, update.weights)
        standing.versions[weights.digest] = weights.version
        standing.seen[update.update_id] = "trial"
        trace = current_trace()
        standing.trial = Trial(
            digest=weights.digest, update_id=update.update_id, traceparent=trace.traceparent if trace else ""
        )
        shelf.save()
        self._tried = LearnedPolicy(weights)
        made = utc_text(nanoseconds(update.issued_at))
        self._tell(metrics.POLICY_SHADOWED, {"update_id": update.update_id, "version": update.version, "made": made})
        if self._shadow_decisions == 0:
            self._swap(standing.trial)
        return None

    def refuse(self, update_id: str, version: str, reason: PolicyUpdateRejection, detail: str) -> Refusal:
        """Tell of an update that isn't taken, and remember it if it was what it says: another may come in its place."""
        name = short_name(PolicyUpdateRejection, reason).lower()
        if update_id and reason not in _UNSOUND and update_id not in self._standing.seen:
            self._standing.seen[update_id] = f"refused: {name}: {detail}"
            self._policies.shelf.save()
        told: dict[str, AttributeValue] = {
            "update_id": update_id,
            "reason": name,
            "detail": detail,
            "version": version,
        }
        self._tell(metrics.POLICY_UPDATE_REJECTED, told)
        return Refusal(reason=reason, detail=detail)

    def beside(self, view: View) -> None:
        """Let the weights on trial decide on what the live policy has just decided on."""
        trial, tried = self._standing.trial, self._tried
        if trial is None or tried is None or view.context.grows_stacks:
            return
        if first_obstacle(view, but=GUESSES) is not None:
            return
        began = time.perf_counter()
        try:
            proposal, own = tried.propose(view), self._policies.bare(view.state.policy_digest).propose(view)
        except (EsperError, ArithmeticError, ValueError) as error:
            self._end_trial(trial, f"failed in the shadow: {error}")
            return
        took_ms = (time.perf_counter() - began) * 1e3
        if not math.isfinite(proposal.value or 0.0) or took_ms > SHADOW_LIMIT_MS:
            self._end_trial(
                trial, f"value {proposal.value} after {lasted_ms(took_ms)}, at most {lasted_ms(SHADOW_LIMIT_MS)}"
            )
            return
        trial.decisions += 1
        trial.agreed += proposal.action == own.action
        self._policies.shelf.save()
        if trial.decisions >= self._shadow_decisions:
            self._swap(trial)

    def learned_from(self, digest: str, reports: Iterable[FieldReport]) -> None:
        """Book what decisions turned out to be worth, and roll back weights whose decisions are worse."""
        price = self._price(digest)
        found = {r.report_id: worth.reward(price) for r in reports if (worth := worth_of(r)) is not None}
        if not found:
            return
        booked = self._standing.rewards.setdefault(digest, {})
        booked.update(found)
        for old in list(booked)[:-KEPT_REWARDS]:
            del booked[old]
        reason = self._worse()
        if reason is not None:
            self._roll_back(reason)
        self._policies.shelf.save()

    def record(self, digest: str) -> Record | None:
        """None before there are two decisions with an outcome."""
        rewards = list(self._standing.rewards.get(digest, {}).values())
        if len(rewards) < 2:
            return None
        return Record(count=len(rewards), mean=fmean(rewards), error=stdev(rewards) / math.sqrt(len(rewards)))

    def _verified(self, update: PolicyUpdate) -> Weights:
        rejection = PolicyUpdateRejection
        standing = self._standing
        if update.update_id in standing.seen:
            detail = f"update {update.update_id} was decided on before: {standing.seen[update.update_id]}"
            raise WeightsRefused(rejection.POLICY_UPDATE_REJECTION_REPLAYED, detail)
        if not update.HasField("weights"):
            detail = "no weights: thresholds of a run are changed by ApplyPolicyUpdate"
            raise WeightsRefused(rejection.POLICY_UPDATE_REJECTION_INVALID_WEIGHTS, detail)
        if digest_of(update.weights) != update.weights_digest:
            detail = "weights_digest isn't the SHA-256 of weights"
            raise WeightsRefused(rejection.POLICY_UPDATE_REJECTION_DIGEST_MISMATCH, detail)
        weights = read_weights(update.weights)
        if (update.policy_id, update.version) != (weights.policy_id, weights.version):
            detail = (
                f"the update is for {update.policy_id!r} {update.version}, "
                f"its weights are {weights.policy_id!r} {weights.version}"
            )
            raise WeightsRefused(rejection.POLICY_UPDATE_REJECTION_UNKNOWN_POLICY, detail)
        number, newest = version_number(weights.version), self._newest()
        if number is None or number <= newest:
            known = ".".join(map(str, newest)) or "none"
            detail = f"version {weights.version} is not newer than {known}; train again with a --version above it"
            raise WeightsRefused(rejection.POLICY_UPDATE_REJECTION_STALE_VERSION, detail)
        _dry_load(weights)
        return weights

    def _newest(self) -> tuple[int, ...]:
        """Of all versions that were ever in force or tried: one that was rolled back doesn't come again."""
        return max((version_number(version) or () for version in self._standing.versions.values()), default=())

    def _swap(self, trial: Trial) -> None:
        standing, context = self._standing, context_of(TraceContext(traceparent=trial.traceparent))
        attributes: dict[str, str | bool] = {
            "esper.keep": True,
            "esper.policy.version": standing.versions[trial.digest],
        }
        with _tracer.start_as_current_span("tamiyo.policy.swap", context, attributes=attributes) as span:
            span.set_attributes({"esper.decisions": trial.decisions, "esper.agreed": trial.agreed})
            self._put_in_force(trial)

    def _put_in_force(self, trial: Trial) -> None:
        standing = self._standing
        standing.previous.append(standing.live)
        standing.live, standing.trial, self._tried = trial.digest, None, None
        standing.traces[trial.digest] = trial.traceparent
        standing.seen[trial.update_id] = f"in force after {trial.decisions} decisions in the shadow"
        self._policies.shelf.save()
        told: dict[str, AttributeValue] = {
            "update_id": trial.update_id,
            "version": standing.versions[trial.digest],
            "digest": trial.digest,
            "decisions": trial.decisions,
            "agreed": trial.agreed,
        }
        self._tell(metrics.POLICY_SWAPPED, told)

    def _end_trial(self, trial: Trial, why: str) -> None:
        self._standing.trial, self._tried = None, None
        self._standing.seen[trial.update_id] = why
        self._standing.withdrawn[trial.digest] = why
        self._policies.shelf.save()
        version = self._standing.versions[trial.digest]
        told: dict[str, AttributeValue] = {"update_id": trial.update_id, "version": version, "reason": why}
        self._tell(metrics.POLICY_ROLLED_BACK, told)

    def _worse(self) -> str | None:
        """Why the weights in force are worse than what they replaced, or than growing nothing; None if they aren't."""
        live = self._standing.live
        if live == HEURISTIC:
            return None
        own = self.record(live)
        if own is None or own.count < self._rollback_after:
            return None
        if own.mean + ROLLBACK_Z * own.error < 0:
            return f"its decisions are worth {own.words}: growing nothing is worth 0"
        before = self.record(self._standing.previous[-1]) if self._standing.previous else None
        if before is None or before.count < self._rollback_after:
            return None
        if own.mean + ROLLBACK_Z * math.hypot(own.error, before.error) < before.mean:
            return f"its decisions are worth {own.words}, those before it {before.words}"
        return None

    def _roll_back(self, reason: str) -> None:
        standing = self._standing
        gone = standing.live
        standing.withdrawn[gone] = reason
        standing.live = standing.previous.pop() if standing.previous else HEURISTIC
        self._policies.shelf.save()
        told: dict[str, AttributeValue] = {"version": standing.versions[gone], "reason": reason}
        self._tell(metrics.POLICY_ROLLED_BACK, told)

    def _price(self, digest: str) -> float:
        policy = self._policies.bare(digest)
        return policy.weights.price if isinstance(policy, LearnedPolicy) else PRICE


def _dry_load(weights: Weights) -> None:
    """Predict for rows far and near, and for one in which everything is absent."""
    count = len(FEATURE_NAMES)
    draw: Sequence[np.ndarray[tuple[int, int], np.dtype[np.float64]]] = (
        np.random.default_rng(0).normal(scale=10.0, size=(_DRY_ROWS, count)),
        np.full((1, count), np.nan),
    )
    rows = np.concatenate(draw)
    layout = Layout(slots=[f"s{row // 2}" for row in range(len(rows))], blueprints=["b"] * len(rows))
    prediction = weights.model.predict(rows, layout)
    numbers = [*prediction.means.values(), *prediction.errors.values()]
    if not all(np.isfinite(values).all() for values in numbers):
        raise WeightsRefused(
            PolicyUpdateRejection.POLICY_UPDATE_REJECTION_INVALID_WEIGHTS, "predictions of a dry run aren't finite"
        )
