"""A grown network in a folder, as `save_pretrained` writes it, with a loader where its configuration falls short.

The loader needs transformers alone: it builds the network from its configuration and resizes the layers that it names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.core.storage.files import write_atomically
from esper.kasmina.executor.passes.trace import in_words
from esper.kasmina.executor.pretrained.config import Pretrained, built, find_pretrained

LOADER = "grown.py"
SIZES = "grown.json"

SOURCE = '''"""Loads the network of this folder, some of whose layers have sizes that its configuration can't say.

    from {stem} import load
    network = load()
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import {name}

FOLDER = Path(__file__).parent
SIZES = json.loads((FOLDER / "{sizes}").read_text())


class Grown{name}({name}):
    """{name} with the sizes of this folder's weights."""

    def __init__(self, config, *arguments, **options):
        super().__init__(config, *arguments, **options)
        for path, sizes in SIZES.items():
            module = self.get_submodule(path)
            for name, value in sizes["counts"].items():
                setattr(module, name, value)
            for name, shape in sizes["shapes"].items():
                resize(module, name, shape)


def resize(module, name, shape):
    """A parameter or buffer of another shape in the place of one; its values are loaded afterwards."""
    old = getattr(module, name)
    new = torch.zeros(shape, dtype=old.dtype, device=old.device)
    setattr(module, name, torch.nn.Parameter(new, old.requires_grad) if isinstance(old, torch.nn.Parameter) else new)


def load(**options):
    """The network with its weights; options are those of `from_pretrained`."""
    return Grown{name}.from_pretrained(FOLDER, **options)
'''


def save_grown(model: nn.Module, folder: Path) -> Path | None:
    """Write the model's one network that has a configuration; returns the loader that it needs, if it needs one."""
    found = list(find_pretrained(model))
    if not found:
        raise ConfigError("model", type(model).__name__, "has no save_pretrained; save it as torch saves modules")
    if len(found) != 1:
        remedy = f"the network has {len(found)} parts with save_pretrained, a folder holds one"
        raise ConfigError("out", str(folder), f"{remedy}: name a .pt2 or .safetensors file")
    pretrained, save = found[0], found[0].network.save_pretrained
    sizes = sizes_beyond(pretrained)
    save(folder)  # type: ignore[operator]
    if not sizes:
        return None
    write_atomically(folder / SIZES, json.dumps(sizes, indent=1).encode())
    source = SOURCE.format(name=type(pretrained.network).__name__, stem=Path(LOADER).stem, sizes=SIZES)
    write_atomically(folder / LOADER, source.encode())
    return folder / LOADER


def sizes_beyond(pretrained: Pretrained) -> dict[str, dict[str, Any]]:
    """What is of another size than the configuration says, by module: shapes, and numbers that the module holds."""
    try:
        fresh = built(pretrained.network, pretrained.config)
    except Exception as error:
        why = f"no longer builds a network ({in_words(error)})"
        raise ConfigError("model", type(pretrained.config).__name__, why) from error
    found = {}
    for path, module in pretrained.network.named_modules():
        try:
            other = fresh.get_submodule(path)
        except AttributeError as error:
            remedy = f"builds no {path}, which the network has: the loader resizes layers and can't add them"
            raise ConfigError("model", type(pretrained.config).__name__, remedy) from error
        shapes, counts = _shapes(module, other), _counts(module, other)
        if shapes or counts:
            found[path] = {"shapes": shapes, "counts": counts}
    return found


def _shapes(module: nn.Module, fresh: nn.Module) -> dict[str, list[int]]:
    tensors: dict[str, Tensor | None] = {**module._parameters, **module._buffers}
    shaped = {name: tensor for name, tensor in tensors.items() if tensor is not None and hasattr(fresh, name)}
    return {name: list(value.shape) for name, value in shaped.items() if value.shape != getattr(fresh, name).shape}


def _counts(module: nn.Module, fresh: nn.Module) -> dict[str, int]:
    numbers = {name: value for name, value in vars(module).items() if type(value) is int and not name.startswith("_")}
    return {name: value for name, value in numbers.items() if vars(fresh).get(name, value) != value}
