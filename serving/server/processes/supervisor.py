"""The process that keeps several others alike: it alone watches folders and configuration, and answers no request.

It does not import TensorFlow, so that it starts at once, takes little memory, and no model can end it.
"""

import argparse
import asyncio
import contextlib
import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from conveyor.words import host_and_port
from serving.server import logs
from serving.server.endpoints.metrics import Metrics
from serving.server.models.manager import Manager
from serving.server.processes import configured
from serving.server.processes.fleet import Fleet
from serving.server.protocol.errors import StatusError

log = logging.getLogger(__name__)


async def serve(given: argparse.Namespace) -> None:
    """Starts the processes, lets them load what the flags name and listen, and keeps them until a signal.

    Raises:
      StatusError: a configuration, a model or an address is wrong.
    """
    stop, lost = configured.stop_signal(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        lost.set()
        stop.set()

    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_reserved(given))
        config = configured.model_config(given)
        answers: dict[str, Callable[..., Any]] = {}
        fleet = Fleet(given.num_processes, _work, given, answers, lost=lambda: loop.call_soon_threadsafe(end))
        manager = configured.manager(given, fleet)
        answers |= _answers(manager, fleet)
        stack.push_async_callback(asyncio.to_thread, manager.close)
        stack.push_async_callback(asyncio.to_thread, fleet.close)
        stack.callback(manager.stop)
        try:
            await asyncio.to_thread(fleet.start)
        except StatusError:
            if stop.is_set():  # the signal was for all processes
                return
            raise
        await configured.load_first(manager, config, stop)
        if stop.is_set():
            return
        await asyncio.to_thread(fleet.listen)
        log.info("%d processes are listening.", given.num_processes)
        configured.watch(manager, given, stack)
        await stop.wait()
        if lost.is_set():
            raise StatusError("UNAVAILABLE", "No process is left, and none can take a place; see above.")


def _answers(manager: Manager, fleet: Fleet) -> dict[str, Callable[..., Any]]:
    """Returns what the processes may ask, by name; see `worker.SupervisorControl`."""
    metrics, counting = Metrics(), threading.Lock()

    def counted() -> str:
        with counting:  # what one has taken, the next is to see
            for counts in fleet.take():
                metrics.absorb(counts)
            return metrics.text()

    return {
        "status": manager.status, "configure": manager.configure_soon, "metrics": counted, "absorb": metrics.absorb,
    }  # fmt: skip


def _work(given: argparse.Namespace, number: int, connection: Connection) -> None:
    """What each process does."""
    logs.set_up(str(number))
    from serving.server.processes import worker  # TensorFlow

    worker.main(given, number, connection)


@contextlib.contextmanager
def _reserved(given: argparse.Namespace) -> Iterator[None]:
    """Keeps others from the ports that the processes share, also while none listens.

    Raises:
      StatusError: UNAVAILABLE, where one is taken, or the address is not this machine's.
    """
    with contextlib.ExitStack() as stack:
        for port in filter(None, (given.port, given.rest_api_port)):
            try:
                found = socket.getaddrinfo(given.bind_address, port, type=socket.SOCK_STREAM)
                kept = [_keep(family, address, stack) for family, *_, address in found]
                if not any(kept):
                    raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
            except OSError as error:
                raise StatusError(
                    "UNAVAILABLE", f"{host_and_port(given.bind_address, port)} cannot be listened on: {error.strerror}"
                ) from error
        yield


def _keep(family: int, address: Any, stack: contextlib.ExitStack) -> bool:
    """Binds an address that nobody has; returns whether it is this machine's."""
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):  # with the first alone, it must be free
        taken = stack.enter_context(socket.socket(family))
        taken.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            taken.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False
            raise
        if option == socket.SO_REUSEADDR:
            taken.close()
    return True
