"""Trained weights put into a host: by name, all of them, or an error that says what differs and what to do."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.start.files import Tensors, refused
from esper.tolaria.task.start.patterns import SHOWN, fits, listed

DATA_PARALLEL, COMPILED = "module.", "_orig_mod."
AVERAGES = "n_averaged"
"""What an AveragedModel adds to its module's weights."""
SEEDS = "seeds."
"""Before the names of what hangs on a host, in a run's end and in an export."""
COUNTER = "num_batches_tracked"
"""Of a BatchNorm; older files don't have it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Weights that a network starts from, under the names that their file gives."""

    source: str
    tensors: Tensors
    is_own_copy: bool = False
    """Whether they are what the run itself has kept, all of them by the host's own names."""
    entry: Mapping[str, Any] | None = None
    """Of such a copy: what was said of the weights at first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """What was put into a host."""

    source: str
    digest: str
    tensors: int
    left_out: tuple[str, ...]
    stripped: tuple[str, ...]
    converted: tuple[str, ...]

    def as_entry(self) -> dict[str, Any]:
        """For the summary, and beside the run's own copy."""
        return {"from": self.source, "digest": self.digest, "tensors": self.tensors, "left_out": list(self.left_out)}

    @property
    def line(self) -> str:
        """What a person is told of it."""
        parts = [f"starts from {self.source}: {self.tensors:,} tensors, digest {self.digest[:16]}"]
        parts += [f"prefix {prefix} taken off its names" for prefix in self.stripped]
        parts += [f"converted from {kind}" for kind in self.converted]
        parts += [f"left out: {listed(self.left_out)}"] if self.left_out else []
        return "; ".join(parts)


def put_in(config: TrainConfig, model: nn.Module, start: Start) -> Started:
    """Load the weights. Raises ConfigError, with the host as it was, where names, shapes or types differ."""
    hosts = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    named = {_plain(name): name for name in hosts}
    tensors, stripped = without_prefixes(start.tensors, named)
    excepted = () if start.is_own_copy else config.init_except
    _check_exceptions(excepted, (*tensors, *named))
    left_out = tuple(name for name in (*tensors, *named) if fits(name, excepted))
    taken = {name: value for name, value in tensors.items() if name not in left_out}
    wanted = {name: hosts[own] for name, own in named.items() if name not in left_out}
    if problems := _differences(taken, wanted):
        raise refused(start.source, f"doesn't fit {config.model}: {problems}; {_remedy(config, taken, wanted)}")
    _check_ties(start.source, taken, wanted)
    try:
        model.load_state_dict({named[name]: value for name, value in taken.items()}, strict=False)
    except RuntimeError as error:
        raise refused(start.source, f"can't be loaded into {config.model}: {str(error).splitlines()[-1]}") from error
    kinds = {_kind(value) for name, value in taken.items() if value.dtype != wanted[name].dtype}
    return Started(
        source=start.source,
        digest=digest_of(tensors),
        tensors=len(taken),
        left_out=tuple(dict.fromkeys(left_out)),
        stripped=stripped,
        converted=tuple(sorted(kinds)),
    )


def without_prefixes(tensors: Tensors, hosts: Iterable[str]) -> tuple[Tensors, tuple[str, ...]]:
    """Names as the plain model has them, and what wrappers had put before them."""
    hosts, stripped = list(hosts), []
    if any(COMPILED in name for name in tensors):
        tensors, stripped = {_plain(name): value for name, value in tensors.items()}, [COMPILED]
    rest = [name for name in tensors if name != AVERAGES]
    is_wrapped = bool(rest) and all(name.startswith(DATA_PARALLEL) for name in rest)
    if is_wrapped and not any(name.startswith(DATA_PARALLEL) for name in hosts):
        tensors = {name.removeprefix(DATA_PARALLEL): tensors[name] for name in rest}
        stripped.append(DATA_PARALLEL)
    return tensors, tuple(stripped)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        state.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def _differences(taken: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What doesn't fit, with the first few names; empty where everything does."""
    given = {value.data_ptr() for name, value in wanted.items() if name in taken and not is_lazy(value)}
    missing = [name for name, value in wanted.items() if name not in taken and not _is_dispensable(name, value, given)]
    unexpected = [name for name in taken if name not in wanted]
    both = [name for name in taken if name in wanted and not is_lazy(wanted[name])]
    shapes = [
        f"{name} {list(taken[name].shape)}, here {list(wanted[name].shape)}"
        for name in both
        if taken[name].shape != wanted[name].shape
    ]
    kinds = [
        f"{name} {_kind(taken[name])}, here {_kind(wanted[name])}"
        for name in both
        if taken[name].is_floating_point() != wanted[name].is_floating_point()
    ]
    named = {"missing": missing, "unexpected": unexpected, "of another shape": shapes, "of another type": kinds}
    return "; ".join(f"{len(names):,} {what} ({_first(names)})" for what, names in named.items() if names)


def _is_dispensable(name: str, value: Tensor, given: set[int]) -> bool:
    """Whether the file need not hold it: it is tied to what the file holds, or counts batches."""
    return name.endswith(COUNTER) or (not is_lazy(value) and value.numel() > 0 and value.data_ptr() in given)


def _check_ties(source: str, taken: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """One tensor of the host can't have two values."""
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    for name, value in taken.items():
        if is_lazy(wanted[name]) or not value.numel():
            continue
        other = first.setdefault((wanted[name].data_ptr(), tuple(value.shape)), name)
        if other != name and not torch.equal(taken[other], value):
            raise refused(source, f"{other} and {name} are one tensor in the model and differ in the file")


def _check_exceptions(patterns: Iterable[str], names: Iterable[str]) -> None:
    names = list(names)
    for pattern in patterns:
        if not any(fits(name, [pattern]) for name in names):
            raise ConfigError("init_except", pattern, f"names nothing in the file or the model: {listed(names)}")


def _remedy(config: TrainConfig, taken: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What to do: build the host as it was, or leave out what is replaced."""
    if not set(taken) & set(wanted):
        return f"no name is in both: is it another architecture? the model has {_first(list(wanted))}"
    exception = "--init-except 'PATTERN,...' leaves out what is replaced"
    if any(name.startswith(SEEDS) for name in taken):
        return f"seeds that stayed modules are no part of a plain host: esper export merges adapters; {exception}"
    flags = topology_flags(config, taken)
    if flags and flags != topology_flags(config, wanted):
        return f"its topology is another, was it grown? {flags} builds it so; {exception}"
    return exception if flags else f"was it grown? then build the model as deep and wide as it is; {exception}"


def topology_flags(config: TrainConfig, tensors: Mapping[str, Tensor]) -> str:
    """The flags by which a named model is built as these weights are; empty where they aren't known."""
    if config.model == "transformer":
        widths = _sizes(tensors, r"blocks\.(\d+)\.mlp\.(?:fc1|gate)\.weight")
        return f"--depth {len(widths)} --hidden {','.join(map(str, widths))}" if widths else ""
    layer = {"mlp": "fc", "conv1d": "conv", "cnn": "conv"}.get(config.model)
    widths = [] if layer is None else _sizes(tensors, rf"{layer}(\d+)\.weight")
    # The last fc layer of an mlp gives the outputs.
    widths = widths[:-1] if layer == "fc" else widths
    return f"--hidden {','.join(map(str, widths))}" if widths else ""


def _sizes(tensors: Mapping[str, Tensor], pattern: str) -> list[int]:
    """First dimensions of the tensors whose names are numbered so, in the order of the numbers."""
    found = {int(match[1]): value.shape[0] for name, value in tensors.items() if (match := re.fullmatch(pattern, name))}
    return [found[number] for number in sorted(found)]


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _plain(name: str) -> str:
    return name.replace(COMPILED, "")
