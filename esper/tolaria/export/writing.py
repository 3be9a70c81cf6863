"""The file itself: a proven program where the network can be traced, otherwise its weights with the reason.

Nothing stands under the file's name before its proof.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError, GraftFailed
from esper.core.storage.files import why_not_made
from esper.kasmina.executor.fold.export import plain, uncompiled
from esper.kasmina.executor.fold.merge import merge_all
from esper.kasmina.executor.pretrained.loader import save_grown
from esper.tolaria.export.network import LAST, Network, load_network
from esper.tolaria.export.program import foreign_operator, in_words, quiet, traced
from esper.tolaria.export.proof import ROWS, disproof
from esper.tolaria.export.weights import record_of, write_weights
from esper.tolaria.task.interface import Interface

PROGRAM, WEIGHTS = ".pt2", ".safetensors"
RECORD = "network.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written, and how it is used."""

    path: Path
    what: str
    """What the file is, what it takes and gives; for weights alone, why."""
    use: str
    """How it is loaded."""

    @property
    def line(self) -> str:
        return f"{self.path}: {self.what}; {self.use}"


def export(run_dir: Path, out: Path, weights: str = LAST, *, seeds_only: bool = False) -> Exported:
    """Write the network of the finished run in `run_dir`, as a program to NAME.pt2 or as weights to NAME.safetensors.

    A network that can't be a program becomes weights, beside the name that was asked for. A name without an ending is
    the folder of a network that has a configuration of its own. Low-rank adapters are merged first, where the run lets
    them; `seeds_only` writes the weights of all that stayed modules instead, and nothing of the host. Raises the error
    tree.
    """
    if out.suffix not in (PROGRAM, WEIGHTS, ""):
        remedy = (
            f"expected a file name ending in {PROGRAM} or {WEIGHTS}, or a folder for a network with save_pretrained"
        )
        raise ConfigError("out", str(out), remedy)
    if seeds_only and out.suffix != WEIGHTS:
        raise ConfigError("out", str(out), f"seeds alone are weights: expected a file name ending in {WEIGHTS}")
    network = load_network(run_dir, weights)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if seeds_only:
            return _write_seeds(network, out)
        merge_all(network.arm)
        return write(network, out) if out.suffix else _write_folder(network, out)
    except FileExistsError as error:
        raise ConfigError("out", str(out), f"can't be written: {error.filename} {why_not_made(error)}") from error
    except OSError as error:
        raise ConfigError("out", str(out), f"can't be written: {error.strerror}") from error


def _write_folder(network: Network, out: Path) -> Exported:
    """The network as its own save_pretrained writes it. Seeds that stay modules are no part of such a folder."""
    if grafts := network.arm.grafts:
        kept = ", ".join(graft.seed_id for graft in grafts)
        raise ConfigError("out", str(out), f"{kept} stayed beside the network as modules: name a {PROGRAM} file")
    loader = save_grown(uncompiled(network.arm.clone().model), out)
    what = "the network with its configuration"
    if loader is None:
        return Exported(path=out, what=what, use=f'from_pretrained("{out}") loads it')
    return Exported(path=out, what=f"{what} and a loader for what that can't say", use=f"load() of {loader} loads it")


def write(network: Network, out: Path) -> Exported:
    """Write a network; what is there already is replaced once its successor is proven."""
    shown = {rows: network.interface.inputs(rows) for rows in ROWS}
    expected, refusal = _expected(network, shown)
    takes = network.interface.described()
    if not expected:
        return _write_weights(
            network, out.with_suffix(WEIGHTS), f"{takes}; it takes no {_listed(ROWS, 'or')} rows: {refusal}"
        )
    takes = f"{takes} -> [{', '.join(map(str, _output_shape(expected)))}]"
    if out.suffix == WEIGHTS:
        return _write_weights(network, out, takes)
    if reason := _placed(out, lambda path: _write_program(network, path, shown, expected)):
        return _write_weights(network, out.with_suffix(WEIGHTS), f"{takes}; torch.export can't take it: {reason}")
    what = f"{takes}, proven without Esper with {_listed(expected, 'and')} rows"
    return Exported(path=out, what=what, use=f'torch.export.load("{out}").module() loads it')


def _write_seeds(network: Network, out: Path) -> Exported:
    if not network.arm.grafts:
        raise ConfigError("run_dir", str(network.config.run_dir), "its network has no seed that stayed a module")

    def work(path: Path) -> str:
        write_weights(network, path, seeds_only=True)
        return ""

    _placed(out, work)
    ids = ", ".join(graft.seed_id for graft in network.arm.grafts)
    use = "the metadata says what each reads and adds to"
    return Exported(path=out, what=f"weights of the seeds {ids} alone, named seeds.ID.NAME", use=use)


def _write_weights(network: Network, out: Path, what: str) -> Exported:
    def work(path: Path) -> str:
        write_weights(network, path)
        return ""

    _placed(out, work)
    shape, outputs = network.interface.sample_shape, network.interface.outputs
    use = f"{network.config.model} builds the network for ({shape}, {outputs}), the metadata says what was grown"
    if network.interface.mean is not None:
        use += "; normalise its inputs first, (x - mean) / deviation by feature or channel, as the metadata has them"
    return Exported(path=out, what=f"weights alone, {what}", use=use)


def _write_program(network: Network, path: Path, shown: dict[int, Tensor], expected: dict[int, Tensor]) -> str:
    """Trace, save and prove; returns why it can't be done."""
    try:
        module = taking_raw_inputs(plain(network.arm), network.interface)
    except (GraftFailed, ConfigError) as error:
        return in_words(error)
    program, reason = traced(module, network.interface.inputs(3))
    if program is None:
        return reason
    try:
        with quiet():
            torch.export.save(program, path, extra_files={RECORD: json.dumps(record_of(network))})
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - operators of the user's own have no form in a file
        return in_words(error)
    reason = disproof(path, {rows: shown[rows] for rows in expected}, expected)
    if reason and (operator := foreign_operator(program)):
        return f"{operator} is an operator of another library, which plain PyTorch lacks"
    return reason


def _expected(network: Network, shown: dict[int, Tensor]) -> tuple[dict[int, Tensor], str]:
    """What the trained network gives for each number of rows that it can take itself; why it took not all of them."""
    outputs: dict[int, Tensor] = {}
    refusal = ""
    for rows, inputs in shown.items():
        try:
            outputs[rows] = network.outputs(inputs)
        except Exception as error:  # noqa: BLE001 - the host is anybody's code, and refuses in its own way
            refusal = in_words(error)
    return outputs, refusal


class Normalized(nn.Module):
    """A network behind the normalisation of its inputs."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean.clone())
        self.register_buffer("deviation", deviation.clone())

    def forward(self, inputs: Tensor) -> Any:
        return self.network((inputs - self.mean) / self.deviation)


def taking_raw_inputs(network: nn.Module, interface: Interface) -> nn.Module:
    """The network that normalises by itself, where the run did."""
    scale = interface.scale()
    return network if scale is None else Normalized(network, *scale).eval()


def _listed(numbers: Iterable[int], word: str) -> str:
    return f" {word} ".join(", ".join(map(str, numbers)).rsplit(", ", 1))


def _output_shape(expected: dict[int, Tensor]) -> tuple[object, ...]:
    return "rows", *next(reversed(expected.values())).shape[1:]


def _placed(out: Path, work: Callable[[Path], str]) -> str:
    """Do the work on a file beside `out`, which takes its place unless the work gives a reason against it."""
    with TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        path = Path(folder) / f"network{out.suffix}"
        reason = work(path)
        if not reason:
            os.replace(path, out)
    return reason
