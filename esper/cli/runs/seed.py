"""`esper seed`: an operator's orders for the seeds of a run that is under way.

Each is a signed command to the run's Kasmina, which records it and says whether it acts; the trainer carries it out at
one of its next boundaries.
"""

from __future__ import annotations

import argparse
import getpass
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from esper.cli.key_source import add_key_flag, keyring_for
from esper.cli.run_peer import peer_of, told_of
from esper.cli.runs.status import read
from esper.cli.usage import UsageError, Verbs, add_group, add_verb, run_directory, words
from esper.core.clock import SYSTEM_CLOCK
from esper.core.counted import counted
from esper.core.enums import short_name
from esper.core.errors import ConfigError
from esper.core.messages.validation import require_valid
from esper.core.plain import plain
from esper.core.security.signing import Signer
from esper.core.settings.config import listed
from esper.leyline import (
    AdaptationCommand,
    ApplyCommandRequest,
    BlendConfig,
    BlendMode,
    BlendSchedule,
    CommandOutcome,
    ConfidenceKind,
    PauseOrder,
    PruneOrder,
    RegistryReset,
    RejectionReason,
    ResetRegistryRequest,
    ResetTeacherRequest,
    ResumeOrder,
    SeedOperation,
    SeedOperationKind,
    SeedStage,
    TeacherReset,
)

if TYPE_CHECKING:
    from esper.rpc.clients import KasminaClient

TIMEOUT_S = 10.0
MAX_STEPS = (1 << 63) - 1
MODES = {short_name(BlendMode, number).lower(): name for name, number in BlendMode.items() if number}
SCHEDULES = {short_name(BlendSchedule, number).lower(): name for name, number in BlendSchedule.items() if number}
STAGES = {short_name(SeedStage, number).lower(): name for name, number in SeedStage.items() if number}
CONFIDENCES = {short_name(ConfidenceKind, number).lower(): name for name, number in ConfidenceKind.items() if number}


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A run that is under way, as its directory tells of it."""

    run_id: str
    generation: int
    step: int
    alphas: dict[str, float]


def register(verbs: Verbs) -> None:
    group = add_group(
        verbs,
        "seed",
        "pause, resume, blend, advance, cull and prune seeds of a run that is under way, or forget its teacher",
    )
    paused = add_verb(group, "pause", run_pause, "take a seed out of the forward pass, or allow no new ones")
    resumed = add_verb(group, "resume", run_resume, "let a paused seed, or growth, go on")
    blended = add_verb(group, "blend", run_blend, "change the blend of a seed that is being blended in")
    moved = add_verb(group, "advance", run_advance, "move a seed to its next stage without waiting for the gate")
    culled = add_verb(group, "cull", run_cull, "remove a seed that isn't kept yet")
    pruned = add_verb(group, "prune", run_prune, "remove a seed that was kept as a module")
    cleared = add_verb(group, "clear", run_clear, "cull every seed that isn't kept yet; what was signed before is void")
    forgot = add_verb(
        group,
        "forget-teacher",
        run_forget_teacher,
        "let no seed learn from the teacher; what was signed before is void",
    )
    for verb in (paused, resumed, blended, moved, culled, pruned, cleared, forgot):
        verb.add_argument("run_dir", type=run_directory, metavar="RUN_DIR", help="a run that is under way")
        verb.add_argument("--kasmina", metavar="ENDPOINT", help="HOST:PORT or unix:PATH (default: the run's)")
        verb.add_argument("--ca", type=Path, metavar="FILE", help="certificate authority, beyond loopback")
        add_key_flag(verb, default="RUN_DIR/secret if it is there, else env")
    for verb in (paused, resumed, blended, moved, culled, pruned):
        is_optional = verb in (paused, resumed)
        more = "; default: growth as a whole" if is_optional else ""
        verb.add_argument("seed_id", nargs="?" if is_optional else None, metavar="SEED", help=f"as s1{more}")
    for verb in (paused, resumed, pruned, cleared, forgot):
        verb.add_argument("--why", type=words, required=True, metavar="TEXT", help="the cause in words")
    moved.add_argument("--to", required=True, choices=STAGES, help="the stage, which must follow the seed's own")
    blended.add_argument("--mode", required=True, choices=MODES, help="how it joins its layer")
    blended.add_argument("--schedule", choices=SCHEDULES, default="linear", help="course of alpha (linear)")
    blended.add_argument("--steps", type=_steps, required=True, metavar="N", help="length of that course")
    blended.add_argument("--start", type=float, metavar="X", help="alpha at its start (default: as it is now)")
    blended.add_argument("--alpha", type=float, default=1.0, metavar="X", help="alpha at its end (1)")
    blended.add_argument("--channels", metavar="A,B,...", default="", help="shares of channel")
    blended.add_argument("--confidence", choices=CONFIDENCES, default="margin", help="measure of confidence (margin)")
    blended.add_argument("--slope", type=float, default=4.0, metavar="X", help="slope of the gate of confidence (4)")
    blended.add_argument("--threshold", type=float, default=0.2, metavar="X", help="threshold of that gate (0.2)")


def run_pause(arguments: argparse.Namespace) -> int:
    order = PauseOrder(rationale=arguments.why, seed_id=arguments.seed_id or "")
    return _ordered(arguments, _standing(arguments.run_dir), AdaptationCommand(pause=order))


def run_resume(arguments: argparse.Namespace) -> int:
    order = ResumeOrder(rationale=arguments.why, seed_id=arguments.seed_id or "")
    return _ordered(arguments, _standing(arguments.run_dir), AdaptationCommand(resume=order))


def run_prune(arguments: argparse.Namespace) -> int:
    order = PruneOrder(rationale=arguments.why, seed_id=arguments.seed_id)
    return _ordered(arguments, _standing(arguments.run_dir), AdaptationCommand(prune=order))


def run_cull(arguments: argparse.Namespace) -> int:
    cull = SeedOperation(seed_id=arguments.seed_id, operation=SeedOperationKind.SEED_OPERATION_KIND_CULL)
    return _ordered(arguments, _standing(arguments.run_dir), AdaptationCommand(seed=cull))


def run_advance(arguments: argparse.Namespace) -> int:
    move = SeedOperation(
        seed_id=arguments.seed_id,
        operation=SeedOperationKind.SEED_OPERATION_KIND_ADVANCE_TO,
        target_stage=STAGES[arguments.to],
    )
    return _ordered(arguments, _standing(arguments.run_dir), AdaptationCommand(seed=move))


def run_clear(arguments: argparse.Namespace) -> int:
    reset = RegistryReset(training_run_id=_standing(arguments.run_dir).run_id, rationale=arguments.why)
    with _kasmina(arguments) as (client, signer):
        command = signer.sign(reset, audience=f"kasmina/{reset.training_run_id}")
        removed = client.reset_registry(ResetRegistryRequest(command=command), timeout_s=TIMEOUT_S).removed
    print(f"{counted(removed, 'seed')} {'is' if removed == 1 else 'are'} being removed")
    return 0


def run_forget_teacher(arguments: argparse.Namespace) -> int:
    reset = TeacherReset(training_run_id=_standing(arguments.run_dir).run_id, rationale=arguments.why)
    with _kasmina(arguments) as (client, signer):
        command = signer.sign(reset, audience=f"kasmina/{reset.training_run_id}")
        had_one = client.reset_teacher(ResetTeacherRequest(command=command), timeout_s=TIMEOUT_S).was_registered
    print("the teacher is forgotten" if had_one else "there was no teacher")
    return 0


def run_blend(arguments: argparse.Namespace) -> int:
    standing = _standing(arguments.run_dir)
    start = standing.alphas.get(arguments.seed_id, 0.0) if arguments.start is None else arguments.start
    blend = BlendConfig(
        mode=MODES[arguments.mode],
        schedule=SCHEDULES[arguments.schedule],
        schedule_steps=arguments.steps,
        alpha_start=start,
        alpha_target=arguments.alpha,
        alpha_vec=_shares(arguments.channels),
    )
    if arguments.mode == "confidence":
        blend.MergeFrom(BlendConfig(confidence=CONFIDENCES[arguments.confidence]))
        blend.gate_slope, blend.gate_threshold = arguments.slope, arguments.threshold
    change = SeedOperation(
        seed_id=arguments.seed_id, operation=SeedOperationKind.SEED_OPERATION_KIND_CHANGE_BLEND, blend=blend
    )
    return _ordered(arguments, standing, AdaptationCommand(seed=change))


def _steps(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_STEPS:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {MAX_STEPS}")
    return int(text)


def _shares(text: str) -> list[float]:
    try:
        return list(map(float, listed(text)))
    except ValueError as error:
        raise UsageError(f"--channels {text}: give numbers from 0 to 1, as 1,0.5") from error


def _ordered(arguments: argparse.Namespace, standing: Standing, command: AdaptationCommand) -> int:
    """Sign, send, and say what Kasmina makes of it; 1 where it is refused."""
    command.command_id = f"operator-{secrets.token_hex(6)}"
    command.training_run_id, command.generation = standing.run_id, standing.generation
    command.step, command.issued_by = standing.step, f"operator:{getpass.getuser()}"
    require_valid(command)
    outcome = _sent(arguments, command)
    if outcome.accepted:
        print(plain(f"accepted as {outcome.command_id}: run {standing.run_id} acts at one of its next boundaries"))
        return 0
    print(plain(f"refused, {short_name(RejectionReason, outcome.rejection)}: {outcome.detail}"))
    return 1


def _sent(arguments: argparse.Namespace, command: AdaptationCommand) -> CommandOutcome:
    with _kasmina(arguments) as (client, signer):
        envelope = signer.sign(command, audience=f"kasmina/{command.training_run_id}")
        return client.apply_command(ApplyCommandRequest(command=envelope), timeout_s=TIMEOUT_S).outcome


@contextmanager
def _kasmina(arguments: argparse.Namespace) -> Iterator[tuple[KasminaClient, Signer]]:
    """The run's Kasmina, and the keys to speak to it."""
    from esper.rpc.clients import KasminaClient, Tls, channel  # grpc, which the other verbs start without

    run_dir = arguments.run_dir
    endpoint = arguments.kasmina or peer_of(run_dir, "kasmina").endpoint
    keyring = keyring_for(arguments.key, run_dir)
    tls = None if arguments.ca is None else Tls(ca=arguments.ca)
    with told_of(None if arguments.kasmina else run_dir), channel(endpoint, tls) as link:
        yield KasminaClient(link), Signer(keyring, SYSTEM_CLOCK)


def _standing(run_dir: Path) -> Standing:
    """What a command must say of its run. Raises ConfigError for a directory that holds none."""
    found = read(run_dir)
    try:
        generation = int((run_dir / "checkpoints" / "generation").read_text())
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError("RUN_DIR", str(run_dir), "doesn't say which generation of its run is open") from error
    seeds = found.get("seeds", ())
    return Standing(
        run_id=found["run_id"],
        generation=generation,
        step=found.get("step") or found.get("steps") or 0,
        alphas={seed["seed_id"]: seed["alpha"] for seed in seeds},
    )
