"""What the trainer needs of the ranks of a run. One that is alone needs nobody: it hears itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from esper.core.errors import RankLost, RanksDiffer
from esper.kasmina.executor.contents.forms import is_writable
from esper.tolaria.ranks.place import Place, named

if TYPE_CHECKING:
    from esper.tolaria.ranks.pulse import Pulse

DIGEST_BYTES = 32
OF_GROUPS = ("gloo", "NCCL", "c10d")
"""What stands in the errors of process groups."""


class Ranks:
    """A process that trains alone."""

    rank = 0
    count = 1
    local_count = 1
    """Of this machine."""
    local_rank = 0

    @property
    def is_first(self) -> bool:
        """Whether this process talks to the services, writes the run's files, and is heard by the others."""
        return self.rank == 0

    def told(self, content: bytes) -> bytes:
        """What the first rank has to say; the content of the others counts for nothing."""
        return content

    def any(self, flag: bool) -> bool:
        """Whether any rank says so."""
        return flag

    def total(self, values: Tensor) -> None:
        """Sum the values over all ranks, in place: bit for bit the same on each."""

    def largest(self, values: Tensor) -> None:
        """The largest of each value over all ranks, in place."""

    def spread(self, tensors: list[Tensor]) -> None:
        """Give all ranks the first one's content of these tensors, in place."""

    def agree(self, what: str, digest: str, remedy: str = "") -> None:
        """Raises RanksDiffer where a SHA-256 (hex) isn't that of the first rank."""

    @property
    def group(self) -> ProcessGroup | None:
        """Over which torch's own means reduce."""
        return None

    def work_group(self) -> ProcessGroup:
        """One more, of CPU tensors, for work that goes on beside the steps; all ranks must ask for it."""
        raise NotImplementedError("a process that is alone has nobody to work with")

    def note_failure(self) -> None:
        """A collective of torch's own has failed."""

    def guarded(self) -> AbstractContextManager[None]:
        """Around torch's own collectives: raises RankLost where one of them failed."""
        return nullcontext()

    def lost_by(self, error: BaseException | None) -> RankLost | None:
        """Who was lost, where a collective failed in code that nobody guards; None for any other error."""
        return None

    def collective(self) -> AbstractContextManager[None]:
        """The same around what else may fail in between, such as a network's own code."""
        return nullcontext()


ALONE = Ranks()


class ManyRanks(Ranks):
    """One of several processes, over a process group of torch's that takes CPU tensors and those of the device."""

    def __init__(self, place: Place, group: ProcessGroup, pulse: Pulse, patience: timedelta) -> None:
        self.rank, self.count = place.rank, place.count
        self.local_rank, self.local_count = place.local_rank, place.local_count
        self._group = group
        self._patience = patience
        self._is_broken = False  # then no further collective is begun
        self._pulse = pulse

    def told(self, content: bytes) -> bytes:
        with self._collective():
            size = torch.tensor([len(content)], dtype=torch.int64)
            dist.broadcast(size, 0, group=self._group)
            payload = torch.zeros(int(size), dtype=torch.uint8)
            if self.is_first:
                payload = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else payload
            if len(payload):
                dist.broadcast(payload, 0, group=self._group)
            return content if self.is_first else payload.numpy().tobytes()

    def any(self, flag: bool) -> bool:
        found = torch.tensor([flag], dtype=torch.uint8)
        self.largest(found)
        return bool(found)

    def total(self, values: Tensor) -> None:
        with self._collective():
            dist.all_reduce(values, group=self._group)

    def largest(self, values: Tensor) -> None:
        with self._collective():
            dist.all_reduce(values, dist.ReduceOp.MAX, group=self._group)

    def spread(self, tensors: list[Tensor]) -> None:
        with self._collective(), torch.no_grad():
            for tensor in tensors:
                there = tensor.contiguous()
                dist.broadcast(there.reshape(-1).view(torch.uint8), 0, group=self._group)
                if there is not tensor and is_writable(tensor):
                    tensor.copy_(there)

    def agree(self, what: str, digest: str, remedy: str = "") -> None:
        own = torch.frombuffer(bytearray.fromhex(digest), dtype=torch.uint8)
        found = [torch.zeros(DIGEST_BYTES, dtype=torch.uint8) for _ in range(self.count)]
        with self._collective():
            dist.all_gather(found, own, group=self._group)
        if others := [rank for rank, theirs in enumerate(found) if not torch.equal(theirs, found[0])]:
            has, end = "has" if len(others) == 1 else "have", f"; {remedy}" if remedy else ""
            raise RanksDiffer(f"{named(others)} {has} another {what} than rank 0{end}")

    @property
    def group(self) -> ProcessGroup:
        return self._group

    def work_group(self) -> ProcessGroup:
        with self._collective():
            found: ProcessGroup = dist.new_group(backend="gloo", timeout=self._patience)
            return found

    def note_failure(self) -> None:
        self._is_broken = True

    @contextmanager
    def guarded(self) -> Iterator[None]:
        self._pulse.calls += 1
        try:
            yield
        except RuntimeError as error:
            if not self._is_broken:
                raise
            raise self._pulse.lost(error) from error

    def lost_by(self, error: BaseException | None) -> RankLost | None:
        if not isinstance(error, RuntimeError) or not (self._is_broken or _is_of_a_group(error)):
            return None
        self._is_broken = True
        return self._pulse.lost(error)

    @contextmanager
    def collective(self) -> Iterator[None]:
        with self._collective(_is_of_a_group):
            yield

    @contextmanager
    def _collective(self, is_lost: Callable[[RuntimeError], bool] = lambda error: True) -> Iterator[None]:
        if self._is_broken:
            raise RankLost("other ranks were lost before")
        with self.guarded():
            try:
                yield
            except RuntimeError as error:
                self._is_broken = is_lost(error)
                raise


def _is_of_a_group(error: RuntimeError) -> bool:
    """Whether a process group raised it: gloo's own errors have no type of theirs."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in OF_GROUPS)
