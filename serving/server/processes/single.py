"""One process that does all: it looks after the models, loads them, and answers."""

import argparse
import asyncio
import contextlib
import dataclasses
import logging
from typing import Any

from serving.server.endpoints.metrics import Metrics
from serving.server.models.manager import Manager
from serving.server.models.versions import Version
from serving.server.processes import configured
from serving.server.processes.listening import GRACE, Listener

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class OwnControl:
    """Control of a server of one process."""

    manager: Manager
    counted: Metrics

    async def status(self, spec: Any) -> list[Version]:
        """See `Control.status`."""
        return self.manager.status(spec)

    async def configure(self, config: Any) -> None:
        """See `Control.configure`."""
        await asyncio.wrap_future(self.manager.configure_soon(config))

    async def metrics(self) -> str:
        """See `Control.metrics`."""
        return self.counted.text()


async def serve(given: argparse.Namespace) -> None:
    """Loads what the flags name, listens, and serves until a signal.

    Raises:
      StatusError: a configuration, a model or an address is wrong.
    """
    stop = configured.stop_signal()
    async with contextlib.AsyncExitStack() as stack:
        listener = Listener(given)
        manager = configured.manager(given, listener.replica)
        stack.push_async_callback(asyncio.to_thread, manager.close)
        await configured.load_first(manager, configured.model_config(given), stop)
        if stop.is_set():
            return
        await listener.listen(OwnControl(manager, listener.metrics), stack)
        configured.watch(manager, given, stack)
        await stop.wait()
        log.info("Stopping: running requests have %d s.", GRACE)
