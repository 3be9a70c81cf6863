"""Whole training steps as CUDA graphs: recorded once for a network and a form of batches, then replayed."""

from esper.tolaria.loop.graphs.backend import Backend, CudaBackend, Graph
from esper.tolaria.loop.graphs.graphs import Graphs

__all__ = ["Backend", "CudaBackend", "Graph", "Graphs"]
