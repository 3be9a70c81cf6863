"""The live page of runs, served beside Weatherlight: `esper ui` as a process of its own, which ends with the service.

It reads the directories of runs and calls like everybody else. That it draws a long run, or dies, takes nothing from
the supervisor; it is begun anew a while later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from esper.core.errors import ConfigError
from esper.core.process.child import child_command
from esper.rpc.endpoint import Endpoint

log = logging.getLogger("esper.weatherlight")
URL_FILE = "page.url"
RETRY_S = 5.0
STOP_S = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PageConfig:
    """Where the live page is served, and of which runs."""

    listen: str | None = None  # HOST:PORT on loopback; without it no page is served
    runs: Path = Path("runs")  # a run's directory, or a folder of them

    def __post_init__(self) -> None:
        if self.listen is None:
            return
        endpoint = Endpoint.parse(self.listen, "page.listen")
        if endpoint.path is not None or not endpoint.is_local:
            remedy = "the page is served on loopback alone, as HOST:PORT; forward the port from elsewhere (ssh -L)"
            raise ConfigError("page.listen", self.listen, remedy)
        if not self.runs.is_dir():
            raise ConfigError("page.runs", str(self.runs), "is no directory; give that of a run, or a folder of runs")


def serve(config: PageConfig, state_dir: Path) -> Callable[[], Awaitable[None]]:
    """Serve the page from now on; what is returned ends it. Its address stands in `page.url` of the state directory."""
    if config.listen is None:
        return _nothing
    command = child_command(
        "esper.cli.main", "ui", str(config.runs), "--listen", config.listen, "--url-file", str(state_dir / URL_FILE)
    )
    task = asyncio.get_running_loop().create_task(_keep(command), name="page")

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        (state_dir / URL_FILE).unlink(missing_ok=True)

    return end


async def _keep(command: list[str]) -> None:
    while True:
        try:
            process = await asyncio.create_subprocess_exec(*command, process_group=0)
        except OSError as error:
            log.error("the page can't be served, tried anew every %g s: %s", RETRY_S, error.strerror)
        else:
            try:
                code = await process.wait()
            finally:
                await _stop(process)
            log.error("the page ended with code %s, begins anew in %g s", code, RETRY_S)
        await asyncio.sleep(RETRY_S)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), STOP_S)
    if process.returncode is None:
        process.kill()
        await process.wait()


async def _nothing() -> None:
    return
