"""A checkpoint's bytes: what is plain as torch writes it, then the tensors' memory, read straight into new tensors.

    esper-checkpoint 3 SHA-256 SHA-256     one line: of the head, and of the SHA-256 of each piece of the data
    head                                   8 bytes with its size, then torch.save of the tree with a meta tensor in the
                                           place of each tensor, and of their sizes
    data                                   each tensor's memory, in the order of the tree, at multiples of 64 bytes

No byte is used before it was verified, and no code is run (`weights_only`). Who reads waits, so several threads hash
pieces, each while others read: one alone hashes slower than a disk reads. A tensor that isn't plain memory stands in
the head.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pickle import UnpicklingError
from typing import Any, BinaryIO, Protocol, TypeVar

import torch
from torch import Tensor

from esper.core.errors import CorruptRecord
from esper.kasmina.executor.contents.storages import has_storage

MAGIC = b"esper-checkpoint 3 "
DIGEST_BYTES = 64
HEADER_BYTES = len(MAGIC) + 2 * (DIGEST_BYTES + 1)
LENGTH_BYTES = 8
PIECE_BYTES = 4 * 2**20
READ_BYTES = 512 * 2**10
"""Read at once: they are still near the processor when they are hashed."""
ALIGNMENT = 64
MOST_THREADS = 8
MOST_PARTS = 512
"""Of one read; systems take at least 1024."""
NO_DATA = -1
"""The size of a tensor that had no memory when it was written."""

State = dict[str, Any]
Blank = Callable[[Tensor], Tensor]
Bytes = bytes | bytearray
Cut = tuple[int, int]
Work = Callable[[int, int], bytes]
T = TypeVar("T")


class Source(Protocol):
    """Where bytes are read from, by any thread."""

    @property
    def size(self) -> int:
        """How many there are."""

    def fill(self, parts: Sequence[memoryview], offset: int) -> bool:
        """Fill memory with the bytes from an offset on; whether there were enough."""


class Held:
    """Bytes that are in memory."""

    def __init__(self, content: Bytes) -> None:
        self._view = memoryview(content)
        self.size = len(content)

    def fill(self, parts: Sequence[memoryview], offset: int) -> bool:
        for part in parts:
            found = self._view[offset : offset + len(part)]
            if len(found) < len(part):
                return False
            part[:] = found
            offset += len(part)
        return True


class Stored:
    """Bytes of an open file."""

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = file.fileno()
        self.size = os.fstat(self._descriptor).st_size

    def fill(self, parts: Sequence[memoryview], offset: int) -> bool:
        waiting = list(parts)
        while waiting:
            count = os.preadv(self._descriptor, waiting[:MOST_PARTS], offset)
            if not count:
                return False
            offset += count
            while waiting and count >= len(waiting[0]):
                count -= len(waiting.pop(0))
            if count:
                waiting[0] = waiting[0][count:]
        return True


def pack(state: State) -> bytearray:
    """A state as the bytes of a file."""
    tensors: list[Tensor] = []
    tree = _emptied(state, tensors, {})
    sizes = [NO_DATA if tensor.is_meta else tensor.nbytes for tensor in tensors]
    saved = io.BytesIO()
    torch.save({"tree": tree, "sizes": sizes}, saved)
    start = HEADER_BYTES + LENGTH_BYTES + saved.tell()
    offsets, end = _layout(start, sizes)
    content = bytearray(end)
    content[HEADER_BYTES : HEADER_BYTES + LENGTH_BYTES] = saved.tell().to_bytes(LENGTH_BYTES, "big")
    content[HEADER_BYTES + LENGTH_BYTES : start] = saved.getbuffer()
    for tensor, size, offset in zip(tensors, sizes, offsets, strict=True):
        if size > 0:
            torch.frombuffer(content, dtype=torch.uint8, count=size, offset=offset).copy_(_flat(tensor))
    view = memoryview(content)
    # By this thread alone: training, which may go on meanwhile, needs the processors.
    digests = [hashlib.sha256(view[first:last]).digest() for first, last in _cuts(start, end)]
    content[:HEADER_BYTES] = _header(view[HEADER_BYTES:start], _hex(digests))
    return content


def unpack(source: Source, name: str, check: Callable[[], None], *, is_passing: bool = False) -> State:
    """The state that the bytes hold, on the CPU; `check` is asked between pieces. Raises CorruptRecord.

    Tensors that are `passing` stand in one memory that goes with the last of them: whoever keeps one keeps all. It is
    filled while the tree is still being read.
    """
    damaged = CorruptRecord(f"{name} is damaged: its SHA-256 does not match")
    head, of_data = _read_head(source, name, damaged)
    check()
    start = HEADER_BYTES + len(head)
    cuts = _cuts(start, source.size)

    def read_into(memory: LargePages | _Places) -> Work:
        def digest_of(first: int, last: int) -> bytes:
            check()
            digest = hashlib.sha256()
            for begin in range(first, last, READ_BYTES):
                parts = memory.between(begin, min(begin + READ_BYTES, last))
                if not source.fill(parts, begin):
                    raise damaged
                for part in parts:
                    digest.update(part)
            return digest.digest()

        return digest_of

    if is_passing:
        pages = LargePages(start, source.size, damaged)
        tree, digests = _each(cuts, read_into(pages), lambda: _opened(head, name, pages.blank, []))
        is_whole = pages.is_used_up
    else:
        tensors: list[Tensor] = []
        tree = _opened(head, name, _blank, tensors)
        offsets, end = _layout(start, [tensor.nbytes for tensor in tensors])
        if end != source.size:
            raise damaged
        _, digests = _each(cuts, read_into(_Places(start, end, tensors, offsets)), lambda: tree)
        is_whole = True
    if not is_whole or of_data != _hex(digests):
        raise damaged
    check()
    return tree


def _opened(head: memoryview, name: str, blank: Blank, tensors: list[Tensor]) -> State:
    """The tree with tensors whose memory is still to be filled. Raises CorruptRecord."""
    try:
        opened = torch.load(io.BytesIO(head[LENGTH_BYTES:]), map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise CorruptRecord(f"{name} can't be read: {error}") from error
    tree: State = _filled(opened["tree"], iter(opened["sizes"]), blank, tensors, {})
    return tree


def _read_head(source: Source, name: str, damaged: CorruptRecord) -> tuple[memoryview, bytes]:
    """The verified head with its length before it, and the digest of the data. Raises CorruptRecord."""
    header, length = bytearray(HEADER_BYTES), bytearray(LENGTH_BYTES)
    is_whole = source.fill([memoryview(header), memoryview(length)], 0)
    if not header.startswith(MAGIC):
        raise CorruptRecord(f"{name} is not a checkpoint of this version")
    start = HEADER_BYTES + LENGTH_BYTES + int.from_bytes(length, "big")
    if not is_whole or start > source.size:
        raise damaged
    head = bytearray(start - HEADER_BYTES)
    of_data = bytes(header[-DIGEST_BYTES - 1 : -1])
    if not source.fill([memoryview(head)], HEADER_BYTES) or header != _header(head, of_data):
        raise damaged
    return memoryview(head), of_data


class LargePages:
    """Memory for all data of a file: the kernel gives it in pages of 2 MiB where it can, in a fifth of the time."""

    def __init__(self, start: int, end: int, damaged: CorruptRecord) -> None:
        self._base = start // ALIGNMENT * ALIGNMENT
        self._used, self._end, self._damaged = start, end, damaged
        memory = mmap.mmap(-1, max(end - self._base, ALIGNMENT), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._view = memoryview(memory)
        self._bytes = torch.frombuffer(memory, dtype=torch.uint8)

    @property
    def is_used_up(self) -> bool:
        """Whether tensors have all of it; one that has no memory is given its place all the same."""
        return self._used <= self._end <= _aligned(self._used)

    def blank(self, form: Tensor) -> Tensor:
        """Memory of the next tensor, of the form of this one. Raises CorruptRecord where there is none."""
        first = _aligned(self._used)
        self._used = first + form.nbytes
        if self._used > self._end:
            raise self._damaged
        memory = self._bytes[first - self._base : self._used - self._base].view(form.dtype)
        return memory.as_strided(form.shape, form.stride())

    def between(self, first: int, last: int) -> list[memoryview]:
        """Memory for the bytes from one offset to another."""
        return [self._view[first - self._base : last - self._base]]


class _Places:
    """Where each byte of the data belongs: the memory of tensors, and what lies between them."""

    def __init__(self, start: int, end: int, tensors: Sequence[Tensor], offsets: Sequence[int]) -> None:
        self._begins: list[int] = []
        self._views: list[memoryview] = []
        position = start
        for tensor, offset in zip(tensors, offsets, strict=True):
            if tensor.nbytes:
                self._add(position, memoryview(bytearray(offset - position)))
                self._add(offset, _memory(tensor))
                position = offset + tensor.nbytes
        self._add(position, memoryview(bytearray(end - position)))

    def _add(self, begin: int, view: memoryview) -> None:
        if len(view):
            self._begins.append(begin)
            self._views.append(view)

    def between(self, first: int, last: int) -> list[memoryview]:
        """Memory for the bytes from one offset to another."""
        found = []
        for index in range(bisect_right(self._begins, first) - 1, len(self._views)):
            begin, view = self._begins[index], self._views[index]
            if begin >= last:
                break
            found.append(view[max(0, first - begin) : last - begin])
        return found


def _header(head: Bytes | memoryview, of_data: bytes) -> bytes:
    return MAGIC + hashlib.sha256(head).hexdigest().encode() + b" " + of_data + b"\n"


def _hex(digests: Sequence[bytes]) -> bytes:
    return hashlib.sha256(b"".join(digests)).hexdigest().encode()


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _layout(start: int, sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where each tensor's memory begins, and the end of all."""
    offsets = []
    for size in sizes:
        start = _aligned(start)
        offsets.append(start)
        start += max(0, size)
    return offsets, start


def _cuts(start: int, end: int) -> list[Cut]:
    return [(first, min(first + PIECE_BYTES, end)) for first in range(start, end, PIECE_BYTES)]


def _each(cuts: Sequence[Cut], work: Work, meanwhile: Callable[[], T]) -> tuple[T, list[bytes]]:
    """What this thread finds meanwhile, and what the work gives for pieces, in order.

    By threads that nobody waits for at a process's end; this one joins in.
    """
    results = [b""] * len(cuts)
    failures: list[BaseException] = []
    waiting = iter(enumerate(cuts))
    lock = threading.Lock()

    def go_on() -> None:
        while not failures:
            with lock:
                index, cut = next(waiting, (-1, (0, 0)))
            if index < 0:
                return
            try:
                results[index] = work(*cut)
            except BaseException as error:  # noqa: BLE001 - whoever waits gets it
                failures.append(error)

    count = min(len(cuts), MOST_THREADS, os.cpu_count() or 1)
    threads = [threading.Thread(target=go_on, name="checkpoint", daemon=True) for _ in range(count - 1)]
    for thread in threads:
        thread.start()
    try:
        found = meanwhile()
        go_on()
    except BaseException as error:
        failures.append(error)
        raise
    finally:
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return found, results


def _emptied(value: Any, tensors: list[Tensor], known: dict[tuple[Any, ...], Tensor]) -> Any:
    """Plain containers with a meta tensor for each tensor; one memory under two names stays one."""
    kind = type(value)
    if kind is dict:
        return {key: _emptied(item, tensors, known) for key, item in value.items()}
    if kind in (list, tuple):
        return kind(_emptied(item, tensors, known) for item in value)
    if kind is not Tensor or not (has_storage(value) or value.is_meta):
        return value
    # A meta tensor has no address; it is kept alive, so that its own is nobody else's.
    address = id(value) if value.is_meta or not value.numel() else value.data_ptr()
    key = (address, value.dtype, value.shape, value.stride())
    if key not in known:
        tensors.append(value.detach() if _is_dense(value) or value.is_meta else value.detach().contiguous())
        known[key] = torch.empty_strided(value.shape, tensors[-1].stride(), dtype=value.dtype, device="meta")
    return known[key]


def _filled(value: Any, sizes: Iterator[int], blank: Blank, tensors: list[Tensor], known: dict[int, Tensor]) -> Any:
    """The reverse: memory in the place of each meta tensor, to be filled."""
    kind = type(value)
    if kind is dict:
        return {key: _filled(item, sizes, blank, tensors, known) for key, item in value.items()}
    if kind in (list, tuple):
        return kind(_filled(item, sizes, blank, tensors, known) for item in value)
    if kind is not Tensor or not value.is_meta:
        return value
    if id(value) not in known:
        size = next(sizes)
        known[id(value)] = value if size == NO_DATA else blank(value)
        tensors.append(known[id(value)] if size != NO_DATA else torch.empty(0))
    return known[id(value)]


def _blank(form: Tensor) -> Tensor:
    return torch.empty_strided(form.shape, form.stride(), dtype=form.dtype)


def _is_dense(tensor: Tensor) -> bool:
    """Whether its elements fill its memory, in whatever order."""
    strides = tensor.stride()
    return tensor.permute(sorted(range(tensor.dim()), key=strides.__getitem__, reverse=True)).is_contiguous()


def _memory(tensor: Tensor) -> memoryview:
    array: Any = _flat(tensor).numpy()
    return memoryview(array)


def _flat(tensor: Tensor) -> Tensor:
    """A dense tensor's memory as bytes, without a copy."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
