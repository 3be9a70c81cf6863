"""One step of everything that trains: the main arm, its twin with the same batch and draws, incubating seeds."""

from __future__ import annotations

from esper.tolaria.loop.session import Session
from esper.tolaria.loop.step import Groups, Stepper


class ArmSteps:
    """Makes the steps of a session."""

    def __init__(self, session: Session) -> None:
        run = session.run
        self._session = session
        self._executor = run.executor
        self._loader = run.loader
        self._norm_every = run.config.evaluate_every_steps
        self._stepper = Stepper(run.task, run.config, run.device, session.clock)
        self._topology = -1
        self._groups = Groups(host=())
        self._twin_groups = Groups(host=())

    def make(self) -> None:
        """Make the next step and keep its results in the log."""
        session, executor = self._session, self._executor
        started_ns = session.clock.monotonic_ns()
        step = session.progress.step
        if executor.topology != self._topology:
            self._regroup()
        arm, twin = executor.arm, executor.twin
        batch = self._loader.batch(step)
        rate = arm.scheduler.apply(arm.optimizer, step)
        if twin is not None:
            twin.scheduler.apply(twin.optimizer, step)
        executor.before_step(step)
        result = self._stepper.run(
            arm,
            batch,
            step,
            self._groups,
            measures_norm=(step + 1) % self._norm_every == 0,
            after_backward=executor.after_backward if arm.grafts else None,
        )
        executor.note_norms(result.parameter_norms)
        if twin is not None:
            twin_result = self._stepper.run(twin, batch, step, self._twin_groups)
            session.log.add_twin(executor.twin_of, step + 1, twin_result)
        executor.shadow_step(*batch, step)
        session.progress.macs.step(len(batch[0]), executor.macs, executor.twin_macs)
        session.progress.step = step + 1
        step_ms = (session.clock.monotonic_ns() - started_ns) / 1e6
        session.timings.step_ms.append(step_ms)
        session.log.add(step + 1, step // self._loader.steps_per_epoch, result, rate=rate, step_ms=step_ms)

    @property
    def surgery_ms(self) -> float | None:
        """Time spent on gradient surgery so far; None where it is off."""
        return self._stepper.surgery_ms

    def regroup(self) -> None:
        """Forget what is known of the arms: they were replaced."""
        self._topology = -1

    def _regroup(self) -> None:
        """List the parameters of both arms anew after a change of the topology."""
        executor, self._topology = self._executor, self._executor.topology
        self._groups = Groups(host=executor.host_parameters(), seeds=executor.seed_parameters())
        twin = executor.twin
        if twin is not None:
            seeds = [parameter for graft in twin.grafts for parameter in graft.module.parameters()]
            self._twin_groups = Groups(host=twin.host_parameters(), seeds=seeds)
