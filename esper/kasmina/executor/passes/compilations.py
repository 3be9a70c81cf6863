"""What the compiler did so far: graphs, breaks in them, compilations again, and code that it gave back to Python."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True)
class Compilations:
    """Counts since some moment, for the whole process."""

    graphs: int = 0
    graph_breaks: int = 0
    """Places at which a graph ends because what follows can't be part of it."""
    recompilations: int = 0
    """Graphs made of code that had one: for another size of a batch, for evaluation, for a block that differs."""
    fallbacks: int = 0
    """Times that code was given up: it runs as plain Python from then on."""

    def since(self, earlier: Compilations) -> Compilations:
        """What was added to the earlier counts."""
        return Compilations(*(now - then for now, then in zip(astuple(self), astuple(earlier), strict=True)))


def compilations() -> Compilations:
    """The counts of now; they are the compiler's own and start with the process, or with its reset."""
    from torch._dynamo.convert_frame import FRAME_COMPILE_COUNTER
    from torch._dynamo.utils import counters

    frames = counters["frames"]
    return Compilations(
        graphs=counters["stats"]["unique_graphs"],
        graph_breaks=sum(counters["graph_break"].values()),
        recompilations=sum(count - 1 for count in FRAME_COMPILE_COUNTER.values()),
        fallbacks=frames["total"] - frames["ok"],
    )


def break_reasons() -> list[str]:
    """Why graphs ended, the first line of each."""
    from torch._dynamo.utils import counters

    return [str(reason).strip().partition("\n")[0] for reason in counters["graph_break"]]
