"""Every network of the zoo by name, and by the names under which a run's settings find them."""

from __future__ import annotations

import re

from tests.zoo import convolutional, decoders, encoders, mlps, sequences, tabular, unusual, vision
from tests.zoo.network import Network

FAMILIES = (mlps, convolutional, sequences, tabular, unusual, decoders, encoders, vision)
NETWORKS: dict[str, Network] = {network.name: network for family in FAMILIES for network in family.NETWORKS}


def slug(name: str) -> str:
    """A name that stands after the colon of `module:attribute`."""
    return re.sub(r"\W+", "_", name).strip("_").lower()


SLUGS = {slug(name): network for name, network in NETWORKS.items()}


def __getattr__(name: str) -> Network:
    if name not in SLUGS:
        raise AttributeError(f"the zoo has no network {name!r}")
    return SLUGS[name]
