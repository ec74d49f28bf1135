"""The decorator of our function components: TFX's, with the code among what decides whether a result is reused."""

from collections.abc import Callable
from typing import Any

from tfx.dsl.component.experimental.decorators import component
from tfx.types.component_spec import ExecutionParameter

from components.code_digest import code_digest

CODE_DIGEST = "code_digest"


def cached_component(*processes: str) -> Callable[[Callable[..., None]], Any]:
    """Makes a function a TFX component whose cache key holds the digest of its code.

    The digest is an execution parameter, `code_digest`, that the function itself does not see.

    Args:
      processes: modules that the component runs as processes of their own, such as `serving.servability`.
    """

    def decorate(function: Callable[..., None]) -> Any:
        made: Any = component(function)
        made.SPEC_CLASS.PARAMETERS[CODE_DIGEST] = ExecutionParameter(type=str)
        make = made.__init__

        def init(self: Any, **inputs: Any) -> None:
            make(self, **inputs, **{CODE_DIGEST: code_digest(function.__module__, *processes)})

        made.__init__ = init
        return made

    return decorate
