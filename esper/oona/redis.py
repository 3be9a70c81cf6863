"""The bus on Redis Streams, for a plane on several machines. Needs the extra `redis`.

Two streams a lane, the urgent one first. Positions come from one counter, so that a reader can follow all lanes.
Redis must keep what it acknowledged: run it with `appendonly yes` and `appendfsync always`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import redis.asyncio as redis
from redis.exceptions import RedisError, ResponseError, WatchError

from esper.core.clock import SYSTEM_CLOCK, Clock
from esper.core.enums import short_name
from esper.core.errors import BackPressure, ServiceUnavailable
from esper.leyline import BusEnvelope, BusLane, MessagePriority
from esper.oona.bus import LANES, BusConfig, Stored

COUNTER = "oona.sequence"
DEAD = "oona.dead"
MAX_DEAD = 10_000
MAX_TRIMMED = 10_000
BLOCK_MS = 1000
NS_PER_MS = 1_000_000

_Entry = tuple[bytes, dict[bytes, bytes]]
Wanted = tuple[tuple[BusLane, ...], int]
"""Lanes, and the position after which something is waited for."""


class RedisBus:
    """A bus on one Redis server."""

    vouches = False

    def __init__(self, client: Any, config: BusConfig | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self._redis = client
        self._config = config or BusConfig()
        self._clock = clock
        self._groups: set[tuple[str, str]] = set()
        self._publishing = asyncio.Lock()
        self._watching: dict[Wanted, asyncio.Task[bool]] = {}

    @classmethod
    def connect(cls, url: str, config: BusConfig) -> RedisBus:
        """A bus at `redis://HOST:PORT/DB`; it connects at the first use."""
        return cls(redis.from_url(url), config)

    async def publish(self, envelopes: Sequence[BusEnvelope]) -> list[Stored]:
        async with _reached("publish"), self._publishing:
            return [await self._append(envelope) for envelope in envelopes]

    async def fetch(self, group: str, consumer: str, lanes: Sequence[BusLane], limit: int) -> list[BusEnvelope]:
        async with _reached("fetch"):
            keys = [key for lane in lanes for key in _keys(lane)]
            found: list[BusEnvelope] = []
            for key in keys:
                await self._require_group(key, group)
                found += await self._claim(key, group, consumer, limit - len(found))
            for key in keys:
                found += await self._read_new(key, group, consumer, limit - len(found))
            return found

    async def acknowledge(self, group: str, event_ids: Sequence[str]) -> None:
        async with _reached("acknowledge"):
            for key, entry in await self._places(event_ids):
                await self._redis.xack(key, group, entry)

    async def reject(self, group: str, event_ids: Sequence[str]) -> None:
        async with _reached("reject"):
            idle_ms = max(0, self._lease_ms - round(self._config.retry_s * 1e3))
            for key, entry in await self._places(event_ids):
                await self._set_idle(key, group, "rejected", [entry], idle_ms)

    async def release(self, group: str, consumer: str) -> None:
        async with _reached("release"):
            for key in (key for lane in LANES for key in _keys(lane)):
                if (key, group) not in self._groups:
                    continue
                held = await self._redis.xpending_range(key, group, "-", "+", 10_000, consumer)
                entries = [each["message_id"] for each in held]
                if entries:
                    await self._set_idle(key, group, consumer, entries, self._lease_ms)

    async def read(self, lanes: Sequence[BusLane], after_sequence: int, limit: int) -> list[BusEnvelope]:
        async with _reached("read"):
            found = []
            for key in (key for lane in lanes for key in _keys(lane)):
                entries = await self._redis.xrange(key, min=f"({after_sequence}-0", count=limit)
                found += [_envelope(entry, fields) for entry, fields in entries]
            return sorted(found, key=lambda envelope: envelope.sequence)[:limit]

    async def wait(self, after_sequence: int, timeout_s: float, lanes: Sequence[BusLane] = LANES) -> None:
        """The server says when; one question serves all who wait, so that none is cut short with its connection."""
        wanted = (tuple(lanes), after_sequence)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not await asyncio.shield(self._watching_for(wanted)):
                    pass

    def _watching_for(self, wanted: Wanted) -> asyncio.Task[bool]:
        for ended in [each for each, task in self._watching.items() if task.done()]:
            del self._watching[ended]
        if wanted not in self._watching:
            self._watching[wanted] = asyncio.create_task(self._watch(*wanted), name="redis bus")
        return self._watching[wanted]

    async def _watch(self, lanes: tuple[BusLane, ...], after_sequence: int) -> bool:
        """Whether something is stored in the lanes after a position, now or within a while."""
        streams = {key: f"{after_sequence}-0" for lane in lanes for key in _keys(lane)}
        async with _reached("wait"):
            return bool(await self._redis.xread(streams, count=1, block=BLOCK_MS))

    async def last_sequence(self) -> int:
        async with _reached("last position"):
            return int(await self._redis.get(COUNTER) or 0)

    async def depth(self, lane: BusLane) -> int:
        async with _reached("depth"):
            backlogs: dict[str, int] = {}
            for key in _keys(lane):
                for group in await self._groups_of(key):
                    name = group["name"].decode()
                    ahead = await self._redis.xrange(key, min=f"({group['last-delivered-id'].decode()}")
                    backlogs[name] = backlogs.get(name, 0) + group["pending"] + len(ahead)
            return max(backlogs.values(), default=0)

    async def dead_letter_count(self) -> int:
        async with _reached("dead letters"):
            return int(await self._redis.xlen(DEAD))

    async def trim(self) -> int:
        async with _reached("trim"):
            before_ms = self._now_ms() - round(self._config.retention_s * 1e3)
            return sum([await self._trim(key, before_ms) for lane in LANES for key in _keys(lane)])

    async def close(self) -> None:
        for watching in self._watching.values():
            watching.cancel()
        await asyncio.gather(*self._watching.values(), return_exceptions=True)
        await self._redis.aclose()

    @property
    def _lease_ms(self) -> int:
        return round(self._config.lease_s * 1e3)

    @property
    def _place_ttl_s(self) -> int:
        return max(1, round(self._config.retention_s * 2))

    def _now_ms(self) -> int:
        return self._clock.now_ns() // NS_PER_MS

    async def _append(self, envelope: BusEnvelope) -> Stored:
        """Position, entry and id in one transaction; another publisher may come in between, then once more."""
        while True:
            with contextlib.suppress(WatchError):
                async with self._redis.pipeline(transaction=True) as pipe:
                    return await self._append_in(pipe, envelope)

    async def _append_in(self, pipe: Any, envelope: BusEnvelope) -> Stored:
        key, place_key = _key(envelope), _place_key(envelope.event_id)
        await pipe.watch(COUNTER, place_key)
        counted, known = await pipe.mget(COUNTER, place_key)
        if known is not None:
            return Stored(_sequence(known.rpartition(b"|")[2]), is_new=False)
        length, last = await _extent(pipe, key)
        if envelope.lane != BusLane.BUS_LANE_EMERGENCY and length >= self._config.max_lane_entries:
            raise BackPressure(f"{key} holds {self._config.max_lane_entries} envelopes, as many as it takes", 1.0)
        sequence = max(int(counted or 0), last) + 1
        entry = f"{sequence}-0"
        pipe.multi()
        pipe.set(COUNTER, sequence)
        pipe.xadd(key, {b"e": envelope.SerializeToString(), b"ms": self._now_ms()}, id=entry)
        pipe.set(place_key, f"{key}|{entry}", ex=self._place_ttl_s)
        await pipe.execute()
        return Stored(sequence, is_new=True)

    async def _only(self, key: str, group: str, entries: list[_Entry]) -> list[_Entry]:
        """Without the duplicates of what stands at another place: a consumer could acknowledge only that one.

        They come from publishers that were killed between entry and id. An entry without an id gets it here.
        """
        kept = []
        for entry, fields in entries:
            place_key, place = _place_key(_envelope(entry, fields).event_id), key.encode() + b"|" + entry
            await self._redis.set(place_key, place, nx=True, ex=self._place_ttl_s)
            if await self._redis.get(place_key) == place:
                kept.append((entry, fields))
            else:
                await self._redis.xack(key, group, entry)
        return kept

    async def _require_group(self, key: str, group: str) -> None:
        if (key, group) in self._groups:
            return
        try:
            await self._redis.xgroup_create(key, group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._groups.add((key, group))

    async def _claim(self, key: str, group: str, consumer: str, limit: int) -> list[BusEnvelope]:
        """Take over what nobody acknowledged in time; the hopeless is put aside on the way."""
        if limit <= 0:
            return []
        _, entries, *_ = await self._redis.xautoclaim(key, group, consumer, self._lease_ms, count=limit)
        found = []
        for entry, fields in await self._only(key, group, entries):
            (state,) = await self._redis.xpending_range(key, group, entry, entry, 1)
            if state["times_delivered"] > self._config.max_deliveries:
                await self._put_aside(key, group, entry, fields)
            else:
                found.append(_envelope(entry, fields, state["times_delivered"]))
        return found

    async def _put_aside(self, key: str, group: str, entry: bytes, fields: dict[bytes, bytes]) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.xadd(DEAD, {b"e": _envelope(entry, fields).SerializeToString()}, maxlen=MAX_DEAD)
            pipe.xack(key, group, entry)
            await pipe.execute()

    async def _read_new(self, key: str, group: str, consumer: str, limit: int) -> list[BusEnvelope]:
        if limit <= 0:
            return []
        answer = await self._redis.xreadgroup(group, consumer, {key: ">"}, count=limit)
        entries = [entry for _, entries in answer or () for entry in entries]
        return [_envelope(entry, fields, 1) for entry, fields in await self._only(key, group, entries)]

    async def _set_idle(self, key: str, group: str, consumer: str, entries: list[bytes], idle_ms: int) -> None:
        await self._redis.xclaim(key, group, consumer, 0, entries, idle=idle_ms, justid=True)

    async def _places(self, event_ids: Iterable[str]) -> list[tuple[str, bytes]]:
        found = [await self._redis.get(_place_key(event_id)) for event_id in event_ids]
        parts = (place.partition(b"|") for place in found if place is not None)
        return [(key.decode(), entry) for key, _, entry in parts]

    async def _groups_of(self, key: str) -> list[dict[str, Any]]:
        if not await self._redis.exists(key):
            return []
        groups: list[dict[str, Any]] = await self._redis.xinfo_groups(key)
        return groups

    async def _trim(self, key: str, before_ms: int) -> int:
        """Remove what every group has handled: what is old, and the oldest of too many."""
        handled = [await self._handled(key, group) for group in await self._groups_of(key)]
        limit = min(handled, default=await self.last_sequence())
        surplus = await self._redis.xlen(key) - self._config.max_kept_entries
        entries = await self._redis.xrange(key, max=f"{limit}-0", count=MAX_TRIMMED)
        old = [
            entry for place, (entry, fields) in enumerate(entries) if int(fields[b"ms"]) < before_ms or place < surplus
        ]
        return int(await self._redis.xdel(key, *old)) if old else 0

    async def _handled(self, key: str, group: dict[str, Any]) -> int:
        """Up to which position a group has handled everything."""
        name = group["name"].decode()
        pending = await self._redis.xpending_range(key, name, "-", "+", 1)
        if pending:
            return _sequence(pending[0]["message_id"]) - 1
        return _sequence(group["last-delivered-id"])


@contextlib.asynccontextmanager
async def _reached(what: str) -> AsyncIterator[None]:
    try:
        yield
    except RedisError as error:
        raise ServiceUnavailable("oona", "bus", "redis", f"{what} failed: {error}; see that Redis runs") from error


async def _extent(pipe: Any, key: str) -> tuple[int, int]:
    """How many entries a stream has, and the last position that it ever gave."""
    if not await pipe.exists(key):
        return 0, 0
    found = await pipe.xinfo_stream(key)
    return found["length"], _sequence(found["last-generated-id"])


def _keys(lane: BusLane) -> tuple[str, str]:
    name = f"oona.{short_name(BusLane, lane).lower()}"
    return f"{name}.urgent", name


def _key(envelope: BusEnvelope) -> str:
    urgent, ordinary = _keys(envelope.lane)
    return urgent if envelope.priority >= MessagePriority.MESSAGE_PRIORITY_HIGH else ordinary


def _place_key(event_id: str) -> str:
    return f"oona.event:{event_id}"


def _sequence(entry: bytes) -> int:
    return int(entry.partition(b"-")[0])


def _envelope(entry: bytes, fields: dict[bytes, bytes], attempt: int | None = None) -> BusEnvelope:
    envelope = BusEnvelope.FromString(fields[b"e"])
    envelope.sequence = _sequence(entry)
    if attempt is not None:
        envelope.attempt = attempt
    return envelope
