"""One of several processes: it loads what the supervisor says, listens on the shared ports, and answers."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from serving.server.models.versions import Version
from serving.server.processes.link import Link, LinkClosed
from serving.server.processes.listening import GRACE, Listener
from serving.server.protocol.errors import StatusError

log = logging.getLogger(__name__)
MOST_ASKED = 64  # requests for status, metrics and a new configuration at once


class SupervisorControl:
    """Control of a server of several processes: its supervisor knows.

    It is asked from threads of its own, so that no prediction waits for a supervisor that does not answer.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._threads = ThreadPoolExecutor(MOST_ASKED, thread_name_prefix="control")
        self._room = threading.Semaphore(MOST_ASKED)  # also taken by what its client waits for no more

    async def status(self, spec: Any) -> list[Version]:
        """See `Control.status`."""
        return await self._ask("status", spec)

    async def configure(self, config: Any) -> None:
        """See `Control.configure`."""
        await self._ask("configure", config)

    async def metrics(self) -> str:
        """See `Control.metrics`."""
        return await self._ask("metrics")

    async def _ask(self, name: str, *arguments: Any) -> Any:
        if not self._room.acquire(blocking=False):
            raise StatusError("RESOURCE_EXHAUSTED", f"{MOST_ASKED} requests wait for the server's supervisor.")
        asked = self._threads.submit(self._link.call, name, *arguments)
        asked.add_done_callback(lambda _: self._room.release())
        try:
            return await asyncio.shield(asyncio.wrap_future(asked))
        except LinkClosed as error:
            raise StatusError("UNAVAILABLE", "The server is stopping.") from error


def main(given: argparse.Namespace, number: int, connection: Connection) -> None:
    """Answers until the supervisor closes its end of the pipe, or SIGTERM.

    What keeps it from starting, or None, is the first that it sends.

    Args:
      given: the flags.
      number: of this process, from 0.
      connection: to the supervisor.
    """
    threads = (given.tensorflow_intra_op_parallelism, given.tensorflow_session_parallelism)
    if not any(threads) and not given.tensorflow_session_config_file:
        given.tensorflow_intra_op_parallelism = max(1, len(os.sched_getaffinity(0)) // given.num_processes)
    try:
        listener = Listener(given, number)
    except StatusError as error:
        connection.send(error)
        return
    connection.send(None)
    uvloop.run(_serve(listener, connection))


async def _serve(listener: Listener, connection: Connection) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    async with contextlib.AsyncExitStack() as stack:

        def listen() -> None:
            asyncio.run_coroutine_threadsafe(listener.listen(SupervisorControl(link), stack), loop).result()

        replica, metrics = listener.replica, listener.metrics
        answers: dict[str, Callable[..., Any]] = {
            "prepare": replica.prepare, "offer": replica.offer, "unload": replica.unload, "label": replica.label,
            "take": metrics.take, "listen": listen, "ping": lambda: None,
        }  # fmt: skip
        link = Link(connection, answers, ended=lambda: loop.call_soon_threadsafe(stop.set))
        await stop.wait()
        log.info("Stopping: running requests have %d s.", GRACE)
    with contextlib.suppress(LinkClosed):
        link.call("absorb", metrics.take())
