"""Compiled operators of the trainer: gradient surgery, flattening, seed blending, confidence, seed metrics.

    flat = pcgrad(rows, order).flat                    # [K, N] gradients -> [N], conflicts projected out
    blended = blend_residual(host, seed, alpha)        # host + alpha * seed
    pool = GradientPool(model.parameters(), rows=2)    # gradients of each source in a row of one buffer

Operators run eagerly, under torch.compile and, on a GPU, under CUDA graph capture. Misuse raises RuntimeError, as
torch's own operators do, with what arrived and what was expected. Without the compiled extension the import raises
KernelsNotBuilt, which is an ImportError.
"""

from esper.kernels._blend import blend_channel, blend_confidence, blend_convex, blend_residual
from esper.kernels._flatten import FlattenPlan, flatten_, unflatten
from esper.kernels._gate import BlendStats, ConfidenceGate, blend_stats, confidence_gate
from esper.kernels._gradient_pool import GradientPool
from esper.kernels._library import cpu_isa, force_cpu_isa, require_cuda
from esper.kernels._metrics import SeedMetrics, seed_metrics
from esper.kernels._pcgrad import (
    MAX_ROWS,
    PCGrad,
    PCGradSolution,
    combine,
    combine_list,
    gram,
    gram_list,
    pcgrad,
    pcgrad_list,
    pcgrad_solve,
)

__all__ = [
    "MAX_ROWS",
    "BlendStats",
    "ConfidenceGate",
    "FlattenPlan",
    "GradientPool",
    "PCGrad",
    "PCGradSolution",
    "SeedMetrics",
    "blend_channel",
    "blend_confidence",
    "blend_convex",
    "blend_residual",
    "blend_stats",
    "combine",
    "combine_list",
    "confidence_gate",
    "cpu_isa",
    "flatten_",
    "force_cpu_isa",
    "gram",
    "gram_list",
    "pcgrad",
    "pcgrad_list",
    "pcgrad_solve",
    "require_cuda",
    "seed_metrics",
    "unflatten",
]
