#!/usr/bin/env bash
# A stream of requests that a server refuses at once ends in INTERNAL, with grpc.aio's client alone
#
# Packages: grpcio==1.85.1
# Expected: a method that the server doesn't have is UNIMPLEMENTED for every client, as the server said.
# Seen:     where the refusal arrives while grpc.aio still writes requests, the write that failed is told as the call's
#           status, "Internal error from Core", and the server's own code and text are lost: most calls of five requests
#           that may have many answers, and now and then one that has a single answer. A call of one request and grpc's
#           client with threads tell UNIMPLEMENTED each time.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check grpcio==1.85.1
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import asyncio
import collections

import grpc

CALLS = 300
REQUESTS = [b"one"] * 5
METHOD = "/a.Service/Absent"


async def many_requests(port: int) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(METHOD)(iter(REQUESTS), timeout=5)
        try:
            await call.read()
        except grpc.aio.AioRpcError as refused:
            return refused.code()
        return grpc.StatusCode.OK


async def one_answer(port: int) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            await channel.stream_unary(METHOD)(iter(REQUESTS), timeout=5)
        except grpc.aio.AioRpcError as refused:
            return refused.code()
        return grpc.StatusCode.OK


async def one_request(port: int) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(METHOD)(b"one", timeout=5)
        return await call.code()


def with_threads(port: int) -> grpc.StatusCode:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            next(channel.stream_stream(METHOD)(iter(REQUESTS), timeout=5))
        except grpc.RpcError as refused:
            return refused.code()
    return grpc.StatusCode.OK


async def main() -> int:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    streams = collections.Counter([await many_requests(port) for _ in range(CALLS)])
    answers = collections.Counter([await one_answer(port) for _ in range(CALLS)])
    single = collections.Counter([await one_request(port) for _ in range(CALLS)])
    threads = collections.Counter([await asyncio.to_thread(with_threads, port) for _ in range(CALLS)])
    await server.stop(0)
    told = {"aio, streams both ways": streams, "aio, one answer": answers, "aio, one request": single, "threads": threads}
    for name, seen in told.items():
        print(f"grpcio {grpc.__version__}: {name}: " + ", ".join(f"{code.name} {count}" for code, count in seen.items()))
    refused = grpc.StatusCode.UNIMPLEMENTED
    lost = (streams | answers)[grpc.StatusCode.INTERNAL] > 0 and set(streams | answers) <= {refused, grpc.StatusCode.INTERNAL}
    return 0 if lost and all(set(each) == {refused} for each in (single, threads)) else 1


raise SystemExit(asyncio.run(main()))
PY
