"""What grows with a request runs beside the event loop, which all other requests wait for."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

LARGE = 2**16  # bytes: what takes about as long as a hand-over to a thread


async def beside_the_loop(size: int, function: Callable[..., Result], *arguments: Any) -> Result:
    """Returns a function's result, computed in a thread where there is much to do.

    Args:
      size: how many bytes the function looks at or makes.
      function: what to call.
      arguments: of the function.
    """
    return await asyncio.to_thread(function, *arguments) if size > LARGE else function(*arguments)
