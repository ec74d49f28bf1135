"""Finds the sentence in an error that a person can act on."""

import re

# Beam hands on an error in a worker as text: the end of a traceback, with the name of the step behind it.
_IN_A_WORKER = re.compile(
    r"^(?:[\w.]+\.)?(?:Data|Storage|Config|Value|OS)Error: (.*?)(?: \[while running .*)?$",
    re.MULTILINE,
)


def error_text(error: BaseException | None) -> str:
    """Returns an error's message without what Beam or Python put around it."""
    text = str(error).strip()
    found = _IN_A_WORKER.findall(text)
    if found:
        return found[-1]
    return text.removesuffix("]").rpartition(" [while running ")[0] or text or type(error).__name__
