"""Tells somebody how a run ended: e-mail, chat or webhook by an apprise address, and a command."""

import dataclasses
import json
import logging
import os
import shlex
import socket
import subprocess
from typing import Any

from conveyor.errors import ConfigError
from pipeline.home.outcome import EVENTS, Verdict

HOOK_SECONDS = 60
_KINDS = {  # apprise's, which is imported where there is somebody to tell
    Verdict.PUSHED: "success",
    Verdict.REJECTED: "warning",
    Verdict.DRIFTED: "warning",
    Verdict.FAILED: "failure",
    Verdict.NOTHING_NEW: "info",
}
logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its messages hold parts of the addresses, which are secrets


@dataclasses.dataclass(frozen=True)
class Notifier:
    """Whom to tell, and of what.

    Attributes:
      urls: apprise addresses, such as `mailto://...`, `slack://...`, `json://host/path`. They hold passwords, and are
        neither printed nor written anywhere.
      hook: a command that is given the outcome as JSON on its standard input, and the verdict as $CONVEYOR_VERDICT.
      events: the verdicts that are sent.
    """

    urls: tuple[str, ...] = ()
    hook: str | None = None
    events: tuple[str, ...] = EVENTS

    def __post_init__(self) -> None:
        for number, url in enumerate(self.urls, start=1):
            if not _service(url):
                scheme = url.partition("://")[0] if "://" in url else "missing"
                raise ConfigError(
                    f"Notification address {number} of {len(self.urls)} is not one that apprise knows; its scheme is "
                    f"{scheme!r}. See https://github.com/caronc/apprise for all of them."
                )

    def tell(self, outcome: dict[str, Any]) -> list[str]:
        """Sends a message and runs the hook; returns what went wrong, in sentences without secrets.

        Args:
          outcome: `Outcome.to_dict()`, or `verdict` and `error`; with `experiment` besides.
        """
        if outcome["verdict"] not in self.events:
            return []
        problems = []
        title, body = message(outcome)
        for number, url in enumerate(self.urls, start=1):
            if not _service(url).notify(title=title, body=body, notify_type=_KINDS[Verdict(outcome["verdict"])]):
                problems.append(
                    f"Notification address {number} ({url.partition('://')[0]}://...) did not take the message."
                )
        if self.hook:
            problems += self._run_hook(outcome)
        return problems

    def _run_hook(self, outcome: dict[str, Any]) -> list[str]:
        assert self.hook is not None
        try:
            done = subprocess.run(
                shlex.split(self.hook),
                input=json.dumps(outcome),
                text=True,
                env=os.environ | {"CONVEYOR_VERDICT": outcome["verdict"]},
                timeout=HOOK_SECONDS,
                check=False,
            )
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            return [f"The hook could not be run: {error}."]
        return [f"The hook ended with {done.returncode}."] if done.returncode else []


def message(outcome: dict[str, Any]) -> tuple[str, str]:
    """Returns the title and the text of a message about a run."""
    version = f", version {outcome['version']} ({outcome['label']})" if outcome.get("version") else ""
    title = f"Conveyor: {outcome['experiment']} {outcome['verdict']}"
    if outcome["verdict"] == Verdict.PUSHED:
        title += version
    lines = []
    if outcome.get("accuracy") is not None:
        before = outcome.get("baseline")
        lines.append(
            f"test accuracy {100 * outcome['accuracy']:.2f} %" + (f", before {100 * before:.2f} %" if before else "")
        )
    lines += [outcome["decline"]] if outcome.get("decline") else []
    lines += [f"because {reason}" for reason in outcome.get("reasons", ())]
    lines += [f"drift: {sentence}" for sentence in outcome.get("drift", ())]
    if outcome.get("error"):
        lines.append(str(outcome["error"]))
    if outcome["verdict"] in (Verdict.REJECTED, Verdict.DRIFTED, Verdict.FAILED):
        lines.append("What was served before stays.")
    if outcome.get("report"):
        lines.append(f"report {outcome['report']}")
    return title, "\n".join([*lines, f"on {socket.gethostname()}"])


def _service(url: str) -> Any:
    """Returns what sends to an address; it is false where apprise does not know the address."""
    import apprise

    service = apprise.Apprise()
    service.add(url)
    return service
