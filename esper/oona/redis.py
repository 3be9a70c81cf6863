"""The bus on Redis Streams, for a plane on several machines. Needs the extra `redis`.

A stream for each lane and priority. Positions come from one counter, so that a reader can follow all lanes. Every
operation is a script (`redis_scripts`): whole or not at all. Redis must keep what it acknowledged: run it with
`appendonly yes` and `appendfsync always`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import redis.asyncio as redis
from redis.exceptions import RedisClusterException, RedisError

from esper.core.clock import SYSTEM_CLOCK, Clock
from esper.core.enums import short_name
from esper.core.errors import ServiceUnavailable
from esper.core.plain import clause
from esper.leyline import BusEnvelope, BusLane, MessagePriority
from esper.oona import redis_scripts as scripts
from esper.oona.bus import LANES, LEAST, PRIORITIES, BusConfig, DeadLetter, Stored, is_exempt, require_room

TAG = "{oona}"
COUNTER, PLACES, SIZES, DEAD, GROUPS = (f"{TAG}.{name}" for name in ("sequence", "places", "sizes", "dead", "groups"))
CLUSTER = "redis+cluster://"
NOBODY = "-"
BLOCK_MS = 1000
# What other processes give back is told by nobody: it is looked for this often.
REDELIVERY_S = 0.5
TRIM_PAGE = 1000
DEAD_PAGE = 500
NS_PER_MS = 1_000_000

Wanted = tuple[tuple[BusLane, ...], int]
"""Lanes, and the position after which something is waited for."""


class _Letter(NamedTuple):
    """Where a dead letter stands, when its group gave it up (Unix milliseconds), and how large it is."""

    group: str
    stream: str
    entry: str
    stored_ms: int
    size_bytes: int


class RedisBus:
    """A bus on one Redis server, or in one slot of a cluster."""

    vouches = False

    def __init__(self, client: Any, config: BusConfig | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self._redis = client
        self._config = config or BusConfig()
        self._clock = clock
        self._scripts: dict[str, Any] = {}
        self._watching: dict[Wanted, asyncio.Task[bool]] = {}

    @classmethod
    def connect(cls, url: str, config: BusConfig) -> RedisBus:
        """A bus at `redis://HOST:PORT/DB`, or at any node of `redis+cluster://HOST:PORT`; it connects at first use."""
        if url.startswith(CLUSTER):
            return cls(redis.RedisCluster.from_url(url.replace(CLUSTER, "redis://", 1)), config)
        return cls(redis.from_url(url), config)

    async def publish(self, envelopes: Sequence[BusEnvelope]) -> list[Stored]:
        bounds = (self._config.max_lane_entries, self._config.max_lane_bytes)
        given: list[str | int | bytes] = [self._now_ms(), *bounds, len(PRIORITIES)]
        for envelope in envelopes:
            place = STREAMS.index(_stream(envelope.lane, envelope.priority)) + 1
            given += (envelope.event_id, place, int(is_exempt(envelope)), envelope.SerializeToString())
        stored = await self._run("publish", scripts.PUBLISH, [COUNTER, PLACES, SIZES, *STREAMS], given)
        if stored and isinstance(stored[0], int):
            lane, entries, size_bytes, further, further_bytes = stored
            require_room(
                self._config,
                LANES[lane],
                entries=entries,
                further=further,
                size_bytes=size_bytes,
                further_bytes=further_bytes,
            )
        return [Stored(sequence, is_new=bool(is_new)) for sequence, is_new in stored]

    async def fetch(self, group: str, consumer: str, lanes: Sequence[BusLane], limit: int) -> list[BusEnvelope]:
        given = [group, consumer, limit, self._lease_ms, self._config.max_deliveries, self._now_ms()]
        found = await self._run("fetch", scripts.FETCH, [DEAD, GROUPS, *_streams(lanes)], given)
        return [_envelope(entry, raw, attempt) for entry, raw, attempt in found]

    async def acknowledge(self, group: str, event_ids: Sequence[str]) -> None:
        await self._run("acknowledge", scripts.ACKNOWLEDGE, [PLACES, *STREAMS], [group, *event_ids])

    async def reject(self, group: str, event_ids: Sequence[str]) -> None:
        given = [group, self._lease_ms, round(self._config.retry_s * 1e3), NOBODY, *event_ids]
        await self._run("reject", scripts.REJECT, [PLACES, *STREAMS], given)

    async def release(self, group: str, consumer: str) -> None:
        await self._run("release", scripts.RELEASE, STREAMS, [group, consumer, self._lease_ms, NOBODY])

    async def read(
        self, lanes: Sequence[BusLane], after_sequence: int, limit: int, min_priority: MessagePriority = LEAST
    ) -> list[BusEnvelope]:
        streams = [_stream(lane, priority) for lane in lanes for priority in PRIORITIES if priority >= min_priority]
        found = [_envelope(*each) for each in await self._run("read", scripts.READ, streams, [after_sequence, limit])]
        return sorted(found, key=lambda envelope: envelope.sequence)[:limit]

    async def wait(
        self, after_sequence: int, timeout_s: float, lanes: Sequence[BusLane] = LANES, group: str | None = None
    ) -> None:
        """The server says when; one question serves all who wait, so that none is cut short with its connection."""
        wanted = (tuple(lanes), after_sequence)
        patience_s = timeout_s if group is None else min(timeout_s, REDELIVERY_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while not await asyncio.shield(self._watching_for(wanted)):
                    pass

    async def last_sequence(self) -> int:
        async with _reached("last position"):
            return int(await self._redis.get(COUNTER) or 0)

    async def depth(self, lane: BusLane) -> int:
        return int(await self._run("depth", scripts.DEPTH, _streams([lane]), []))

    async def dead_letter_count(self) -> int:
        async with _reached("dead letters"):
            return int(await self._redis.hlen(DEAD))

    async def dead_letters(self, group: str | None = None) -> AsyncIterator[DeadLetter]:
        for letter in await self._dead():
            if group in (None, letter.group):
                async with _reached("dead letters"):
                    found = await self._redis.xrange(letter.stream, min=letter.entry, max=letter.entry)
                for position, fields in found:
                    yield DeadLetter(letter.group, letter.stored_ms * NS_PER_MS, _envelope(position, fields[b"e"]))

    async def requeue(self, group: str, event_ids: Sequence[str]) -> list[str]:
        return await self._settle_dead(group, event_ids, is_again=True)

    async def drop(self, group: str, event_ids: Sequence[str]) -> list[str]:
        return await self._settle_dead(group, event_ids, is_again=False)

    async def trim(self) -> int:
        await self._trim_dead()
        gone = 0
        for lane in LANES:
            entries, size_bytes = await self._run("trim", scripts.HELD, [SIZES, *_streams([lane])], [])
            surplus, surplus_bytes = entries - self._config.max_kept_entries, size_bytes - self._config.max_kept_bytes
            for stream in reversed(_streams([lane])):
                async for more, more_bytes in self._trimmed(stream, surplus, surplus_bytes):
                    gone, surplus, surplus_bytes = gone + more, surplus - more, surplus_bytes - more_bytes
        return gone

    async def forget_groups(self, *, is_full: bool = False) -> dict[str, int]:
        given = [self._now_ms(), self._before_ms(self._config.patience_s(is_full=is_full))]
        found = await self._run("forget groups", scripts.FORGET_GROUPS, [GROUPS, *STREAMS], given)
        return {name.decode(): int(lost) for name, lost in sorted(zip(found[::2], found[1::2], strict=True))}

    async def close(self) -> None:
        for watching in self._watching.values():
            watching.cancel()
        await asyncio.gather(*self._watching.values(), return_exceptions=True)
        await self._redis.aclose()

    @property
    def _lease_ms(self) -> int:
        return round(self._config.lease_s * 1e3)

    def _now_ms(self) -> int:
        return self._clock.now_ns() // NS_PER_MS

    def _before_ms(self, retention_s: float) -> int:
        return self._now_ms() - round(retention_s * 1e3)

    async def _run(self, what: str, script: str, keys: Sequence[str], given: Sequence[Any]) -> Any:
        if script not in self._scripts:
            self._scripts[script] = self._redis.register_script(script)
        async with _reached(what):
            return await self._scripts[script](keys=keys, args=given)

    def _watching_for(self, wanted: Wanted) -> asyncio.Task[bool]:
        for ended in [each for each, task in self._watching.items() if task.done()]:
            del self._watching[ended]
        if wanted not in self._watching:
            self._watching[wanted] = asyncio.create_task(self._watch(*wanted), name="redis bus")
        return self._watching[wanted]

    async def _watch(self, lanes: tuple[BusLane, ...], after_sequence: int) -> bool:
        """Whether something is stored in the lanes after a position, now or within a while.

        What it is has to be asked for: a read that was blocked is given one stream's part of a publication to several.
        """
        streams = dict.fromkeys(_streams(lanes), f"{after_sequence}-0")
        async with _reached("wait"):
            return bool(await self._redis.xread(streams, count=1, block=BLOCK_MS))

    async def _trimmed(self, stream: str, surplus: int, surplus_bytes: int) -> AsyncIterator[tuple[int, int]]:
        """How many entries and bytes went: a page at a time, so that Redis serves others."""
        start = b"-"
        while start:
            given = [self._before_ms(self._config.retention_s), surplus, surplus_bytes, start, TRIM_PAGE]
            gone, size_bytes, start = await self._run("trim", scripts.TRIM, [PLACES, DEAD, SIZES, stream], given)
            surplus, surplus_bytes = surplus - gone, surplus_bytes - size_bytes
            yield gone, size_bytes

    async def _dead(self) -> list[_Letter]:
        """Every dead letter, oldest first."""
        async with _reached("dead letters"):
            fields = await self._redis.hgetall(DEAD)
        found = [_letter(field, value) for field, value in fields.items()]
        return sorted(found, key=lambda letter: (letter.stored_ms, _sequence(letter.entry.encode())))

    async def _trim_dead(self) -> None:
        letters, before_ms = await self._dead(), self._before_ms(self._config.dead_retention_s)
        old, size_bytes = list[str](), 0
        for place, letter in enumerate(reversed(letters)):
            size_bytes += letter.size_bytes
            is_too_much = place >= self._config.max_dead_letters or size_bytes > self._config.max_lane_bytes
            if is_too_much or letter.stored_ms < before_ms:
                old.append(f"{letter.group}|{letter.stream}|{letter.entry}")
        for start in range(0, len(old), DEAD_PAGE):
            async with _reached("trim"):
                await self._redis.hdel(DEAD, *old[start : start + DEAD_PAGE])

    async def _settle_dead(self, group: str, event_ids: Sequence[str], *, is_again: bool) -> list[str]:
        given = [group, NOBODY, int(is_again), *event_ids]
        found = await self._run("dead letters", scripts.SETTLE_DEAD, [DEAD, PLACES, *STREAMS], given)
        return [each.decode() for each in found]


@contextlib.asynccontextmanager
async def _reached(what: str) -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, RedisClusterException, OSError) as error:
        raise ServiceUnavailable(
            "oona", "bus", "redis", f"{what} failed: {clause(error)}; see that Redis runs"
        ) from error


def _stream(lane: BusLane, priority: int) -> str:
    return f"{TAG}.{short_name(BusLane, lane).lower()}.{priority}"


def _streams(lanes: Sequence[BusLane]) -> list[str]:
    """In the order of delivery."""
    return [_stream(lane, priority) for lane in lanes for priority in PRIORITIES]


STREAMS = _streams(LANES)


def _letter(field: bytes, value: bytes) -> _Letter:
    """One that was put aside before bytes were noted counts as none."""
    group, stream, entry = field.decode().rsplit("|", 2)
    stored_ms, _, size_bytes = value.partition(b"|")
    return _Letter(group, stream, entry, int(stored_ms), int(size_bytes or 0))


def _sequence(entry: bytes) -> int:
    return int(entry.partition(b"-")[0])


def _envelope(entry: bytes, raw: bytes, attempt: int | None = None) -> BusEnvelope:
    envelope = BusEnvelope.FromString(raw)
    envelope.sequence = _sequence(entry)
    if attempt is not None:
        envelope.attempt = attempt
    return envelope
