"""What is done between steps: execute what an older packet caused, collect evidence, hand the next packet over.

In lag mode reactions come before the new packet, without lag after it. Everything happens on the training thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby, takewhile
from math import isfinite

from opentelemetry.trace import Link, Span, get_current_span

from esper.core.errors import LossDiverged, NonFiniteLoss
from esper.core.tracing import context_of, tracer
from esper.kasmina.executor import Collected, MemoryNote
from esper.kasmina.executor.memory.forecast import BURSTS, REFUSED
from esper.kasmina.executor.twin import UNDONE
from esper.leyline import DirectiveKind, DirectiveReport, SeedDirective, SystemStatePacket, TraceContext
from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.plane_orders import PlaneOrders
from esper.tolaria.loop.session import Session
from esper.tolaria.loop.setback import Setback, of_gates
from esper.tolaria.loop.watch import Watch
from esper.tolaria.plane.packets import Position, network_of, training_metrics
from esper.tolaria.plane.pipeline import Pipeline
from esper.tolaria.ranks.alike import buffers_alike, topology_of
from esper.tolaria.record.network import RESHAPING, Layer, look_at
from esper.tolaria.record.observer import Boundary, StepDone
from esper.tolaria.record.packet_result import PacketResult

_TRACER = tracer("esper.tolaria")

# The evidence of the last steps goes out with one packet, and what was decided on it is asked for with another.
SETTLING_PACKETS = 2


Obstacle = Callable[[Setback], str]
"""Why a run can't go back as ordered; empty if it can."""


class Boundaries:
    """The boundaries of one generation of a run."""

    def __init__(self, session: Session, pipeline: Pipeline, obstacle_to: Obstacle) -> None:
        self.pipeline = pipeline
        self.order_to_stop: str | None = None
        self.orders = PlaneOrders(session, pipeline)
        self.order_to_go_back: Setback | None = None
        self._obstacle_to = obstacle_to
        self._told_causes: set[str | None] = set()
        self._told_layers: tuple[Layer, ...] = ()
        self._unsent: list[StepDone] = []
        self._epochs_told = session.epoch
        self._session = session
        self._executor = session.run.executor
        self._has_lag = session.run.config.packet_lag > 0
        self._config = session.run.config
        self._remedy = _remedy(self._config, is_own_loop=session.run.has_own_loaders)

    def heed(self) -> None:
        """Hear the plane's mode; it binds everything that is done from here on."""
        self.orders.heed()
        if self.orders.halt is not None:
            self.order_to_stop = self.orders.halt

    def cross(self, *, want_state: bool) -> None:
        """One boundary. Raises NonFiniteLoss for the first step whose loss can't be used, and LossDiverged."""
        with self._span():
            buffers_alike(self._session.ranks, self._executor)
            self._cross(want_state)
            self._compare_ranks()

    def _cross(self, want_state: bool) -> None:
        session = self._session
        watch = Watch(session.clock)
        self.read_steps()
        self._look_at_course()
        signals = session.progress.signals
        self._executor.note_loss(signals.loss.mean, signals.loss.standard_error)
        result = self._react(watch) if self._has_lag and self.pipeline.is_due else None
        with watch.measure("apply"):
            self._executor.at_boundary(session.progress.step)
        packet, collected = self._evidence()
        if not self._has_lag:
            self.pipeline.hand_over(packet, collected, want_state=want_state)
            result = self._react(watch)
        self._tell(packet, collected, result, watch)
        if self._has_lag:
            # Last, because the thread that takes it wants the interpreter too: it has it while the next step computes.
            self.pipeline.hand_over(packet, collected, want_state=want_state)

    def drain(self) -> None:
        """After the last step: execute what is in flight, end growth, tell the services and hear their last word."""
        with self._span():
            buffers_alike(self._session.ranks, self._executor)
            self._drain()
            self._compare_ranks()

    def _compare_ranks(self) -> None:
        """Before the first step after a graft: gradients of networks that differ would be summed, or waited for."""
        ranks = self._session.ranks
        if ranks.count > 1:
            ranks.agree("network", topology_of(self._executor))

    def _drain(self) -> None:
        watch, step = Watch(self._session.clock), self._session.progress.step
        self.read_steps()
        results = []
        while self.pipeline.in_flight:
            results.append(self._react(watch))
            with watch.measure("apply"):
                self._executor.at_boundary(step)
        self._settle(step)
        with watch.measure("apply"):
            self._tell_unjudged(self._executor.finish(step))
        packet, collected = self._evidence()
        self.pipeline.hand_over(packet, collected, want_state=False, is_last=True)
        with watch.measure("wait"):
            last = self.pipeline.take()
        self._note(last)
        if last.directives:
            message = f"{len(last.directives)} directives came after the last step and were not executed"
            self._session.notice("tolaria.directives_late", "WARNING", message)
        for result in (*results, last):
            self._tell(packet, collected, result, watch)
            collected = Collected()

    def _settle(self, step: int) -> None:
        """Hear what becomes of a seed whose judgement is made but not answered yet: it is kept or culled, not lost."""
        for _ in range(SETTLING_PACKETS):
            if not self._executor.is_unsettled:
                return
            watch = Watch(self._session.clock)
            packet, collected = self._evidence()
            self.pipeline.hand_over(packet, collected, want_state=False)
            result = self._react(watch)
            with watch.measure("apply"):
                self._executor.at_boundary(step)
            self._tell(packet, collected, result, watch)

    def _tell_unjudged(self, seed_ids: Sequence[str]) -> None:
        """Seeds that stay in the network although nobody judged them."""
        self._session.progress.history.unjudged = list(seed_ids)
        for seed_id in seed_ids:
            message = f"seed {seed_id} was not judged in time and has no twin to go back to: it stays in the network"
            self._session.notice("tolaria.seed_unjudged", "WARNING", message)

    def _span(self) -> AbstractContextManager[Span]:
        attributes = {"esper.step": self._session.progress.step}
        return _TRACER.start_as_current_span("tolaria.boundary", attributes=attributes)

    def read_steps(self) -> None:
        """Take the steps since the last call as numbers. Raises NonFiniteLoss; the steps before that one are told."""
        session = self._session
        steps, twin_steps = session.log.flush()
        session.read_inputs()
        usable = list(takewhile(lambda done: isfinite(done.loss), steps))
        for done in usable:
            session.progress.note_loss(done)
        session.observer.on_steps(usable)
        if twin_steps and len(usable) == len(steps):
            session.observer.on_twin_steps(twin_steps)
        self._unsent.extend(usable)
        if len(usable) < len(steps):
            bad = steps[len(usable)]
            raise NonFiniteLoss(bad.step - 1, f"the training loss is {bad.loss}{self._remedy}")

    def _look_at_course(self) -> None:
        """Raises LossDiverged where the settings want to know."""
        progress, divergence = self._session.progress, self._session.progress.divergence
        if self._config.on_divergence != "ignore" and divergence.is_found:
            now, begun, limit = divergence.now, divergence.begun, divergence.limit
            why = f"the smoothed loss of {now:.4g} diverges: it began at {begun:.4g}, fell to {divergence.best:.4g}"
            raise LossDiverged(progress.step, f"{why}, and is above {limit:.4g}")
        if not divergence.is_near:
            progress.steady_step = progress.step

    def _react(self, watch: Watch) -> PacketResult:
        """Take the oldest result and execute what it says."""
        with watch.measure("wait"):
            result = self.pipeline.take()
        self._note(result)
        self.orders.note(result)
        step = self._session.progress.step
        self.order_to_go_back = of_gates(result, self._config, step)
        with watch.measure("apply"):
            for trace, directives in by_decision(result):
                with _continued(trace, directives[0].command_id, self._session.run.run_id):
                    own = self._executor.execute(directives, step)
                for directive in own:
                    self._executor.report(directive, step, failure=self._obey(directive))
        return result

    def _obey(self, directive: SeedDirective) -> str:
        """Keep an order that concerns the whole run for the trainer; says why it can't be followed."""
        why = directive.rationale or "by command"
        if directive.kind == DirectiveKind.DIRECTIVE_KIND_HALT:
            # The order of a halt from which the run goes on was acknowledged, else it would not go on.
            self.order_to_stop = None if self.pipeline.is_replayed(directive.command_id) else why
        elif directive.command_id not in self._session.obeyed:
            self._session.obeyed.add(directive.command_id)
            to_step = directive.to_step if directive.HasField("to_step") else None
            return self._keep_order(directive.command_id, Setback(why=f"rollback ordered: {why}", to_step=to_step))
        return ""

    def _keep_order(self, command_id: str, setback: Setback) -> str:
        """An order that leads nowhere is refused, and the run goes on: nothing is wrong with it.

        Kasmina had accepted it, so the refusal names the command, for whoever gave it.
        """
        obstacle = self._obstacle_to(setback)
        if not obstacle:
            self.order_to_go_back = setback
            return ""
        refusal = f"command {command_id}: {obstacle}"
        self._session.notice("tolaria.rollback_refused", "WARNING", f"{setback.why}; refused: {refusal}")
        return refusal

    def _note(self, result: PacketResult) -> None:
        session = self._session
        session.progress.history.note(result)
        if result.decision is not None:
            session.measured.tamiyo_ms = result.decision.latency_ms
        if result.calls is not None and "kasmina" in result.calls.last_ms:
            session.measured.kasmina_ms = result.calls.last_ms["kasmina"]
        # A lost service fails every packet that needs it until it is back: said once. Timeouts are said each.
        if result.failure is not None and (result.is_timeout or result.cause not in self._told_causes):
            name = f"tolaria.{result.cause}" if result.is_timeout else "tolaria.service_failure"
            session.notice(name, "WARNING", f"{result.reason}; training goes on, no new growth", result.failure)
        if changed := session.progress.mode.note(result.reason):
            session.notice("tolaria.mode_changed", "WARNING", changed)
        mode = session.progress.mode
        session.progress.reason.note(
            result, session.progress.step, is_conservative=mode.is_conservative, plane=mode.plane.word
        )
        if result.failure is not None:
            self._told_causes.add(result.cause)
        elif session.progress.mode.name == "normal":
            self._told_causes.clear()

    def _evidence(self) -> tuple[SystemStatePacket, Collected]:
        """The next packet, and what the executor measured for it."""
        session, progress = self._session, self._session.progress
        steps, self._unsent = self._unsent, []
        epochs_told, self._epochs_told = self._epochs_told, session.epoch
        collected = self._executor.collect(progress.step)
        for note in collected.memory:
            self._note_memory(note)
        self._note_unfolded(collected.reports)
        self._note_unmasked(collected.reports)
        progress.macs.side = self._executor.side_macs
        at = Position(
            generation=progress.generation,
            packet_index=self.pipeline.next_packet,
            step=progress.step,
            epoch=session.epoch,
            is_epoch_end=session.epoch > epochs_told or progress.step == session.run.total_steps,
        )
        network = network_of(self._executor, progress.macs.total)
        metrics = training_metrics(steps, progress.signals, network, session.measured)
        packet = session.packets.build(at, steps, metrics, collected, progress.history, progress.mode)
        return packet, collected

    def _note_unfolded(self, reports: Sequence[DirectiveReport]) -> None:
        """Keep for the summary why a seed stays a module, and tell it."""
        for report in reports:
            is_fold = report.kind == DirectiveKind.DIRECTIVE_KIND_FOLD
            if is_fold and report.failure and not report.folded:
                self._session.progress.history.unfolded[report.seed_id] = report.failure
                self._session.notice("tolaria.seed_unfolded", "INFO", f"seed {report.seed_id}: {report.failure}")

    def _note_unmasked(self, reports: Sequence[DirectiveReport]) -> None:
        """Tell of a seed that was built and attends to what may be padding."""
        for report in reports:
            if report.kind == DirectiveKind.DIRECTIVE_KIND_BUILD and report.succeeded and report.failure:
                self._session.notice("tolaria.seed_unmasked", "WARNING", f"seed {report.seed_id}: {report.failure}")

    def _note_memory(self, note: MemoryNote) -> None:
        """Keep it for the summary; what a person didn't ask for is told, and what another machine might not repeat."""
        session = self._session
        session.progress.history.note_memory(note)
        if note.mode in (REFUSED, UNDONE):
            session.progress.history.doubt(f"{note.seed_id} was {note.mode} for lack of memory at step {note.step}")
            session.notice("tolaria.no_room", "WARNING", f"{note.seed_id} {note.mode}: {note.why}")
        elif note.mode == BURSTS:
            session.notice("tolaria.room_for_one", "INFO", f"the twin of {note.seed_id} steps in bursts: {note.why}")

    def _tell(self, packet: SystemStatePacket, collected: Collected, result: PacketResult | None, watch: Watch) -> None:
        session = self._session
        total_ms, wait_ms, apply_ms = watch.total_ms, watch.parts["wait"], watch.parts["apply"]
        session.timings.boundary_ms.append(total_ms)
        recent = slice(-max(1, len(packet.recent_steps)), None)
        session.progress.meter.add_boundary(total_ms - wait_ms - apply_ms)
        session.measured.note(
            hook_ms=total_ms - wait_ms,
            apply_ms=apply_ms,
            finalize_ms=total_ms - wait_ms - apply_ms,
            recent_ms=session.timings.step_ms[recent],
            input_waits_ms=session.timings.input_wait_ms[recent],
            copies_ms=session.timings.h2d_copy_ms[recent],
            samples=session.run.config.batch_size,
        )
        session.observer.on_boundary(
            Boundary(
                step=packet.step,
                epoch=packet.epoch,
                packet=packet,
                collected=collected,
                result=result,
                seeds=session.seed_views(),
                mode=session.progress.mode.name,
                plane=session.progress.mode.plane,
                wait_ms=wait_ms,
                apply_ms=apply_ms,
                input_wait_ms=session.measured.input_wait_ms,
                h2d_copy_ms=session.measured.h2d_copy_ms,
                hook_ms=total_ms - wait_ms - apply_ms,
                reason=session.progress.reason.now,
                macs=session.progress.macs.state_dict(),
                graphs=session.graphs,
            )
        )
        if any(report.succeeded and report.kind in RESHAPING for report in collected.reports):
            self._tell_network(packet.step)

    def _tell_network(self, step: int) -> None:
        network = look_at(self._executor, step)
        if network.layers != self._told_layers:
            self._told_layers = network.layers
            self._session.observer.on_network(network)


def by_decision(result: PacketResult) -> Iterator[tuple[TraceContext | None, list[SeedDirective]]]:
    """The directives in order, in runs that belong to one decision's trace."""
    traces = {
        directive.directive_id: outcome.trace
        for outcome in result.outcomes
        if outcome.HasField("trace")
        for directive in outcome.directives
    }
    for trace, directives in groupby(result.directives, key=lambda directive: traces.get(directive.directive_id)):
        yield trace, list(directives)


@contextmanager
def _continued(trace: TraceContext | None, command_id: str, run_id: str) -> Iterator[None]:
    """Inside the decision's trace, linked to the boundary that executes it."""
    if trace is None:
        yield
        return
    links = [Link(get_current_span().get_span_context())]
    attributes = {"esper.command.id": command_id, "esper.run.id": run_id}
    with _TRACER.start_as_current_span("tolaria.execute", context_of(trace), links=links, attributes=attributes):
        yield


def _remedy(config: TrainConfig, *, is_own_loop: bool) -> str:
    """What to do about a loss that isn't finite; a loop of the user's own can't be taken back."""
    if config.on_nonfinite == "rollback":
        return ""
    last = "look at the samples of that step" if is_own_loop else "use --on-nonfinite rollback"
    return f"; lower the learning rate, clip gradients, or {last}"
