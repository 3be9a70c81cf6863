"""`--dry-run`: everything that a run needs is tried once, and nothing is left behind but a line for each."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from esper.core.clock import nanoseconds
from esper.core.counted import counted
from esper.core.errors import ConfigError
from esper.core.lasted import lasted_ms
from esper.core.process.leaving import kept_inside
from esper.kasmina.executor.passes.compiled import compiled_parts
from esper.leyline import (
    KasminaServiceGetStatusRequest,
    PrefetchKernelRequest,
    PrefetchStatus,
    SlotKind,
    SlotSpec,
)
from esper.rpc.clients import KasminaClient
from esper.tolaria.config import TrainConfig
from esper.tolaria.export import shown_network, write
from esper.tolaria.growable import check_growth
from esper.tolaria.own_blueprints import OwnBlueprints, own_blueprints
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.plane.open_control import Opening
from esper.tolaria.plane.plane import connected
from esper.tolaria.record.observer import Observers
from esper.tolaria.recovery.starting import starting_weights
from esper.tolaria.run_dir import RunOptions, check_free
from esper.tolaria.task.prepare import Prepared, prepare
from esper.tolaria.task.start.fitting import Start
from esper.tolaria.trainer import Trainer
from esper.tolaria.trial import tried_checkpoint, try_host

TIMEOUT_S = 5.0
PREFETCH_TIMEOUT_S = 15.0


@kept_inside()
def dry_run(config: TrainConfig, options: RunOptions) -> str:
    """Check the run's directory, data, model, slots, a first step, the export, keys and services."""
    check_free(config.run_dir, options)
    start = starting_weights(config, resumes=options.resume)
    own = own_blueprints(config, resumes=options.resume)
    run = prepare(config, start=start, own=own)
    if config.grow != "never":
        check_growth(run)
    lines = [
        f"data: {config.data}, " + ", ".join(f"{count:,} {name}" for name, count in run.splits.sizes.items()),
        f"task: {run.task_line}",
        *(f"warning: {doubt}" for doubt in run.doubts),
        f"model: {config.model}, {run.host_parameters:,} parameters, "
        f"{counted(run.total_steps, 'step')} on {run.device}",
    ]
    lines += [f"weights: {run.start_line}"] if run.start_line else []
    once = prepare(replace(config, evaluate_every_steps=1), start=start, own=own)
    Trainer(once, lambda opening: NullControl(), Observers(), should_stop=lambda: True).train()
    lines.append("one step: done")
    lines += [f"compiled: blocks {run.start} to {run.stop - 1} of {run.path}" for run in once.compiled_runs]
    lines += [f"compiled: {path or 'the whole host'}" for path in compiled_parts(run.executor.arm.model)]
    if config.grow != "never":
        lines += [f"looked into by parts: {reason}" for reason in run.executor.places.unseen]
        try_host(run)
        lines.append("copies of the model: learn as it does, and neither reaches the other")
    if config.checkpoint_every_epochs:
        is_alike = tried_checkpoint(run)
        held = "checkpoint: read back, and goes on to the same weights"
        lines.append(held if is_alike else f"warning: {run.doubts[-1]}")
    if config.grow != "never":
        lines += [_cost_line(run)]
        lines += [f"no stack: {reason}" for reason in run.executor.places.refused_runs]
        lines += [_slot_line(slot, run.executor.places.halved_by(slot.slot_id)) for slot in run.manifest().slots]
        lines += _services(config, start, own)
    lines.append(f"export: {_exported(run)}")
    return "\n".join([*lines, "everything works; nothing was written to the run directory"])


def _cost_line(run: Prepared) -> str:
    """What the run would be without growth, in the unit of a budget; an epoch's last batch may be smaller."""
    cost = run.executor.macs.training * run.config.batch_size * run.total_steps
    return f"cost: about {cost:.3g} multiply-accumulates if nothing grows; --max-training-macs is the limit if it does"


def _slot_line(slot: SlotSpec, halves: Sequence[str]) -> str:
    if slot.kind == SlotKind.SLOT_KIND_STACK:
        how = f"with {' and '.join(halves)} halved in each" if halves else "as they are"
        sizes = f"{slot.depth} equal blocks of {slot.block_parameters:,} parameters"
        return f"slot: {slot.slot_id}, {sizes}, doubled {how}"
    return f"slot: {slot.slot_id}, width {slot.width}"


def _exported(run: Prepared) -> str:
    """What `esper export` would make of the host."""
    if run.interface is None:
        return "none: the network takes or gives more than a tensor"
    with tempfile.TemporaryDirectory() as scratch:
        return write(shown_network(run.config, run.interface), Path(scratch) / "network.pt2").what


def _prefetched(kasmina: KasminaClient, blueprint_id: str) -> str:
    """What becomes of a named blueprint's artefact when a seed needs it."""
    request = PrefetchKernelRequest(blueprint_id=blueprint_id)
    asked, *_, last = [told.update for told in kasmina.prefetch_kernel(request, timeout_s=PREFETCH_TIMEOUT_S)]
    if last.status != PrefetchStatus.PREFETCH_STATUS_READY:
        raise ConfigError("blueprints", blueprint_id, f"its artefact can't be had: {last.error}")
    took_ms = (nanoseconds(last.time) - nanoseconds(asked.time)) / 1e6
    what = f"{last.artifact.size_bytes:,} bytes, {lasted_ms(took_ms)}"
    return f"blueprint: {last.blueprint_id} is verified and at hand at Kasmina ({what})"


def _services(config: TrainConfig, start: Start | None, own: OwnBlueprints) -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        config = replace(config, run_dir=Path(scratch) / (config.run_id or config.run_dir.name))
        config.run_dir.mkdir()
        run = prepare(config, start=start, own=own)
        own.copy_to(config.run_dir)
        with connected(config, run.run_id, lambda name, message: None, own) as plane:
            opening = Opening(generation=1, step=0, total_steps=run.total_steps, manifest=run.manifest, states=None)
            control = plane.link.open_control(opening)
            status = plane.link.opened.kasmina.get_status(KasminaServiceGetStatusRequest(), timeout_s=TIMEOUT_S)
            ready = [_prefetched(plane.link.opened.kasmina, blueprint_id) for blueprint_id in config.blueprints]
            control.close()
            failure = plane.link.finish(0, "stopped")
            policy = f"policy: {plane.link.opened.policy}, pinned by {plane.link.opened.policy_digest[:16]}"
            lines = [f"service: {name} at {endpoint}" for name, endpoint in plane.services.endpoints.items()]
    accepted = f"run: signed, opened at generation 1, {status.open_runs} open at Kasmina, "
    return [*lines, policy, *ready, accepted + ("closed" if failure is None else f"not closed: {failure}")]
