"""What the flags say of the models: a manager, its first configuration, and the file of it, which may change."""

import argparse
import asyncio
import contextlib
import logging
import signal
from pathlib import Path
from typing import Any

from tensorflow_serving.config import model_server_config_pb2

from serving.server.models.manager import Manager, Replicas
from serving.server.protocol import config_files
from serving.server.protocol.errors import StatusError

log = logging.getLogger(__name__)


def manager(given: argparse.Namespace, replicas: Replicas) -> Manager:
    """Returns a manager without models."""
    return Manager(
        replicas,
        poll_seconds=given.file_system_poll_wait_seconds,
        max_retries=given.max_num_load_retries,
        retry_seconds=given.load_retry_interval_micros / 1e6,
        early_labels=given.allow_version_labels_for_unavailable_models,
        any_labels=given.force_allow_any_version_labels_for_unavailable_models,
    )


def model_config(given: argparse.Namespace) -> Any:
    """Returns the ModelServerConfig that the flags name.

    Raises:
      StatusError: its file cannot be read.
    """
    if given.model_config_file:
        return config_files.read(Path(given.model_config_file), "ModelServerConfig")
    config = model_server_config_pb2.ModelServerConfig()
    base = str(Path(given.model_base_path).absolute())
    config.model_config_list.config.add(name=given.model_name, base_path=base, model_platform="tensorflow")
    return config


def stop_signal() -> asyncio.Event:
    """Returns an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def load_first(models: Manager, config: Any, stop: asyncio.Event) -> None:
    """Waits until the models are loaded; a signal ends the waiting.

    Raises:
      StatusError: the configuration is wrong, or a model does not become available.
    """
    loading = asyncio.wrap_future(models.configure_soon(config))
    stopping = asyncio.create_task(stop.wait())
    waiting: set[asyncio.Future] = {loading, stopping}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if loading.done():
        loading.result()
        return
    models.stop()
    with contextlib.suppress(StatusError):
        await loading


def watch(models: Manager, given: argparse.Namespace, stack: contextlib.AsyncExitStack) -> None:
    """Follows the model configuration file until the stack is left, where the flags ask for it."""
    if given.model_config_file and given.model_config_file_poll_wait_seconds > 0:
        stack.callback(asyncio.create_task(_watch(models, given)).cancel)


async def _watch(models: Manager, given: argparse.Namespace) -> None:
    """Reads the model configuration again and again, and takes it where it differs; a wrong one changes nothing.

    What came over gRPC meanwhile differs too: the file is what counts.
    """
    while True:
        await asyncio.sleep(given.model_config_file_poll_wait_seconds)
        try:
            config = await asyncio.to_thread(model_config, given)
            if config != models.config:
                await asyncio.wrap_future(models.configure_soon(config))
                log.info("The model configuration has changed, and is served.")
        except StatusError as error:
            log.error("%s: %s. What was served is served on.", given.model_config_file, error.message)
