"""The whole of a run as one saved state, and back: weights, topology, progress, answers in flight, services' states."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from esper.core.errors import ConfigError
from esper.leyline import RunStateBlob
from esper.tolaria.config import TrainConfig
from esper.tolaria.record.packet_result import PacketResult, RunStates
from esper.tolaria.recovery.packed import State

# Settings that may differ between a run and its continuation: where things are, how long to wait for them, what is
# told and warned of, by which way batches come. They are as they were unless they are given anew.
FREE_SETTINGS = frozenset(
    {
        *("run_dir", "run_id", "keep_checkpoints", "checkpoint_every_epochs", "deadline_s", "otlp_endpoint"),
        *("rank_timeout_s", "library"),
        *("tamiyo", "kasmina", "weatherlight", "tls_ca", "tls_cert", "tls_key", "on_nonfinite", "max_rollbacks"),
        *("on_divergence", "on_critical_gate", "snapshot_every_steps"),
        *("rollback_fast_deadline_s", "rollback_full_deadline_s", "twin", "seed_layer_topk"),
        *("seed_conflict_ratio_warn", "seed_share_jump_warn", "hook_budget_ms", "epoch_budget_ms"),
        "gpu_prefetch",
    }
)


DIGITS = 16
_PATHS = tuple(name for name, hint in get_type_hints(TrainConfig).items() if Path in (hint, *get_args(hint)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """One saved moment of a run."""

    settings: Mapping[str, Any]
    run_id: str
    executor: State
    progress: State
    violations: int
    next_packet: int
    in_flight: Sequence[PacketResult]
    states: RunStates | None
    is_final: bool
    data_digest: str
    losses: Sequence[str]
    """Paths of what the host held and no checkpoint can."""
    network: State | None = None
    """What the network takes and gives; with the settings it is enough to build it again."""
    loader: State | None = None
    """Where training data stands that a step's number doesn't tell."""
    weights_digest: str | None = None
    """Of the finished run's network."""
    ranks: int = 1
    """Processes that trained it."""
    summary: Mapping[str, Any] | None = None
    """The finished run's summary, which is written after this; None before the end."""

    @property
    def has_services(self) -> bool:
        """Whether a control plane can go on from here: nothing can, where none was or its states were not kept."""
        return self.states is not None and bool(self.states.kasmina.state_type)

    def is_shorter_than(self, config: TrainConfig) -> bool:
        """Whether the settings extend this run."""
        (unit, had), (wanted, has) = length_of(self.settings), length_of(settings_of(config))
        return unit == wanted and had < has

    def to_state(self) -> State:
        """Tensors and plain containers."""
        states = self.states
        return {
            "settings": dict(self.settings),
            "run_id": self.run_id,
            "executor": self.executor,
            "progress": self.progress,
            "violations": self.violations,
            "next_packet": self.next_packet,
            "in_flight": [result.to_bytes().decode() for result in self.in_flight],
            "kasmina": None if states is None else states.kasmina.SerializeToString(deterministic=True).hex(),
            "tamiyo": None if states is None else states.tamiyo.SerializeToString(deterministic=True).hex(),
            "is_final": self.is_final,
            "data_digest": self.data_digest,
            "losses": list(self.losses),
            "network": self.network,
            "loader": self.loader,
            "weights_digest": self.weights_digest,
            "ranks": self.ranks,
            "summary": None if self.summary is None else json.dumps(self.summary),
        }

    @classmethod
    def from_state(cls, state: State) -> Snapshot:
        """Read back what `to_state` gave."""
        has_states = state["kasmina"] is not None
        return cls(
            settings=state["settings"],
            run_id=state["run_id"],
            executor=state["executor"],
            progress=state["progress"],
            violations=state["violations"],
            next_packet=state["next_packet"],
            in_flight=[PacketResult.from_bytes(text.encode()) for text in state["in_flight"]],
            states=RunStates(kasmina=_blob(state["kasmina"]), tamiyo=_blob(state["tamiyo"])) if has_states else None,
            is_final=state["is_final"],
            data_digest=state["data_digest"],
            losses=state["losses"],
            network=state.get("network"),
            loader=state.get("loader"),
            weights_digest=state.get("weights_digest"),
            ranks=state.get("ranks", 1),
            summary=json.loads(state["summary"]) if state.get("summary") else None,
        )

    def check_continues(self, config: TrainConfig, run_id: str, data_digest: str) -> None:
        """Refuse to go on under other settings, but for a greater length, or on other data: that is another run."""
        if self.run_id != run_id:
            raise ConfigError(
                "run_id", run_id, f"the checkpoint belongs to run {self.run_id}; give that run_id or none"
            )
        unit, _ = length_of(self.settings)
        # A longer run's packets may be further apart: its whole schedule is laid out anew.
        free = FREE_SETTINGS | ({unit, "evaluate_every_steps"} if self.is_shorter_than(config) else set())
        # A setting that a checkpoint doesn't know yet acted as its default.
        had = {**settings_of(TrainConfig()), **self.settings}
        for name, value in settings_of(config).items():
            if name not in free and had[name] != value:
                remedy = "give the same, or more to extend it" if name == unit else "give the same"
                raise ConfigError(name, value, f"the checkpoint's run has {had[name]!r}; {remedy}")
        if self.data_digest != data_digest:
            arrived, expected = data_digest[:DIGITS], self.data_digest[:DIGITS]
            remedy = f"its samples have changed since the checkpoint: digest {arrived}, expected {expected}"
            raise ConfigError("data", config.data, f"{remedy}; give the same data, or start anew with --overwrite")


def length_of(settings: Mapping[str, Any]) -> tuple[str, int]:
    """What says how long a run is, by the setting's name: its steps where they are given, else its epochs."""
    unit = "steps" if settings.get("steps") else "epochs"
    return unit, int(settings[unit])


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Every setting as a plain value."""
    values = {setting.name: getattr(config, setting.name) for setting in fields(config)}
    # As it acts: given or by default, it is the same run.
    values["deterministic"] = config.is_deterministic
    return {name: _plain(value) for name, value in values.items()}


def config_of(settings: Mapping[str, Any]) -> TrainConfig:
    """The settings of a saved run."""
    known = {setting.name for setting in fields(TrainConfig)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    values |= {name: Path(values[name]) for name in _PATHS if values.get(name) is not None}
    return TrainConfig(**{name: value for name, value in values.items() if name in known})


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _blob(text: str) -> RunStateBlob:
    return RunStateBlob.FromString(bytes.fromhex(text))
