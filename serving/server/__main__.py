"""The embedded server as a program: `conveyor_model_server`, with the flags of `tensorflow_model_server`."""

import asyncio
import importlib.metadata
import logging
import sys
from collections.abc import Sequence

from serving.server import flags, logs
from serving.server.protocol.errors import StatusError

log = logging.getLogger("conveyor_model_server")


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until SIGTERM or SIGINT; ends with 1 if it cannot start."""
    arguments = sys.argv[1:] if arguments is None else arguments
    logs.set_up()
    if any(argument in ("--version", "--version=true") for argument in arguments):
        _print_versions()
        return
    given = flags.parse(arguments)
    for name, why in given.ignored.items():
        log.warning("--%s is accepted and not done: %s.", name, why)
    try:
        # TensorFlow is imported where models are loaded: with several processes not in this one.
        if given.num_processes == 1:
            import uvloop

            from serving.server.processes import single

            uvloop.run(single.serve(given))
        else:
            from serving.server.processes import supervisor

            asyncio.run(supervisor.serve(given))
    except StatusError as error:
        sys.exit(f"Failed to start server. Error: {error.code}: {error.message}")


def _print_versions() -> None:
    import tensorflow as tf

    try:
        release = importlib.metadata.version("conveyor-tfx")
    except importlib.metadata.PackageNotFoundError:  # run from its folder
        release = "(not installed)"
    print(f"TensorFlow ModelServer: conveyor {release} (compatible, tested subset)")
    print(f"TensorFlow Library: {tf.__version__}")


if __name__ == "__main__":
    main()
