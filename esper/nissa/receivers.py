"""Where alerts are delivered to: a webhook, or a command. Addresses and tokens are secrets: no error names them."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Protocol
from urllib.parse import urlsplit

from esper.core.errors import AsyncTimeoutError, BackPressure, EsperError, ServiceUnavailable
from esper.core.process.worker import AsyncWorker

# Settings and secrets of ours, and the line to systemd, that a command has no use for.
OWN = ("ESPER_", "NOTIFY_SOCKET", "WATCHDOG_")


class DeliveryFailed(EsperError):
    """A receiver didn't take what it was given."""


class Receiver(Protocol):
    """Takes messages. `name` tells it from the others, in metrics and in the log."""

    name: str

    async def deliver(self, message: bytes) -> None:
        """Returns once it has the message. Raises DeliveryFailed, within its timeout."""


class Webhook:
    """Posts each message as JSON; any answer of the 200s takes it. A redirection is none."""

    name = "webhook"

    def __init__(self, url: str, token: str | None, timeout_s: float) -> None:
        self._url = url
        self._host = urlsplit(url).hostname or ""
        self._headers = {"Content-Type": "application/json", "User-Agent": "esper"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(_NoRedirection)
        # A server that answers byte by byte keeps its thread: others are there for the next tries.
        self._worker = AsyncWorker(max_concurrency=4, max_queued=4)

    async def deliver(self, message: bytes) -> None:
        request = urllib.request.Request(self._url, data=message, headers=self._headers, method="POST")
        try:
            await self._worker.run(lambda: self._post(request), name="webhook", timeout_s=self._timeout_s)
        except (AsyncTimeoutError, TimeoutError) as error:
            raise DeliveryFailed(f"{self._host} did not answer within {self._timeout_s:g} s") from error
        except (BackPressure, ServiceUnavailable) as error:
            raise DeliveryFailed(f"{self._host} still holds the answers to earlier tries") from error
        except urllib.error.HTTPError as error:
            raise DeliveryFailed(f"{self._host} answered {error.code}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DeliveryFailed(f"{self._host} can't be reached: {_in_words(error)}") from None

    def _post(self, request: urllib.request.Request) -> None:
        try:
            with self._opener.open(request, timeout=self._timeout_s):
                return
        except urllib.error.HTTPError as error:
            error.close()
            raise


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET, without its message and perhaps elsewhere."""

    def redirect_request(self, req: object, fp: IO[bytes], code: int, msg: str, headers: object, newurl: str) -> None:
        return None


def _in_words(error: Exception) -> str:
    """What the system says; the library's own words may hold the address."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return type(cause).__name__


class Command:
    """Runs a program with each message on its standard input; code 0 takes it. Its group is killed when it is late."""

    name = "command"

    def __init__(self, words: Sequence[str], timeout_s: float, environ: Mapping[str, str]) -> None:
        self._words = tuple(words)
        self._program = os.path.basename(self._words[0])
        self._timeout_s = timeout_s
        self._environ = {name: value for name, value in environ.items() if not name.startswith(OWN)}

    async def deliver(self, message: bytes) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=self._environ,
                start_new_session=True,
            )
        except OSError as error:
            raise DeliveryFailed(f"{self._program} can't be run: {error.strerror}") from None
        try:
            async with asyncio.timeout(self._timeout_s):
                await process.communicate(message)
        except TimeoutError as error:
            raise DeliveryFailed(f"{self._program} did not end within {self._timeout_s:g} s and was killed") from error
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            raise DeliveryFailed(f"{self._program} ended with code {process.returncode}")
