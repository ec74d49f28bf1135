"""Writes what other schedulers need to run a retraining: a crontab line, units of systemd, a CronJob, a DAG."""

import getpass
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import jinja2

from conveyor.errors import ConfigError
from pipeline.home.folders import Home
from pipeline.schedule.cron import have_same_time, zone
from pipeline.schedule.daemon import SchedulePlan

KINDS = ("crontab", "systemd", "kubernetes", "airflow")
CONTAINER_HOME = Path("/conveyor")
IMAGE = "conveyor:latest"


def files(
    kind: str,
    plan: SchedulePlan,
    home: Home,
    needs: tuple[Path, ...] = (),
    writes: tuple[Path, ...] = (),
    image: str = IMAGE,
) -> dict[str, str]:
    """Returns the files for a scheduler, by name.

    Args:
      kind: one of `KINDS`.
      plan: what is run, and when.
      home: where everything goes; in a container it is /conveyor.
      needs: what the run reads, besides the home folder: the experiment's file and the data.
      writes: folders besides the home folder that the run may write to.
      image: the container image that holds Conveyor.

    Raises:
      ConfigError: the plan says what the scheduler cannot do.
    """
    if plan.cron.has_seconds and kind != "systemd":
        raise ConfigError(f'--cron "{plan.cron.text}": {kind} knows no seconds; give five fields.')
    if kind == "crontab" and not have_same_time(zone(plan.timezone), local := zone(None)):
        raise ConfigError(
            f"--timezone {plan.timezone}: cron runs by this machine's time, {local}. Leave --timezone out and give the "
            "hours in that, or choose --export systemd, which knows zones."
        )
    if kind == "kubernetes" and (outside := [path for path in needs if not path.is_relative_to(home.root)]):
        raise ConfigError(
            f"The container has the home folder alone, and not {', '.join(map(str, outside))}: move it into "
            f"{home.root}, and name its new place."
        )
    for argument in (*plan.arguments, *map(str, writes)):
        if not argument.isprintable():
            raise ConfigError(f"{argument!r} holds a line break or the like, which {kind} would take for its own.")
    unit = "conveyor-" + (re.sub(r"[^a-z0-9]+", "-", plan.experiment.lower()).strip("-") or "experiment")
    module: Any = _template().make_module(
        {
            "title": f"Conveyor: retrains {plan.experiment}",
            "unit": unit[:52].rstrip("-"),  # Kubernetes adds 11 characters, and allows 63
            "cron": plan.cron.text,
            "calendar": plan.cron.calendar(plan.timezone),
            "timezone": plan.timezone,
            "jitter": plan.jitter,
            "delay": f"sleep $(shuf -i 0-{plan.jitter} -n 1)\n{' ' * 18}" if plan.jitter else "",
            "command": shlex.join([_program(), "retrain", *plan.arguments]),
            "words": [_program(), "retrain", *plan.arguments],
            "container_command": _container_command(plan, home, needs) if kind == "kubernetes" else "",
            "user": getpass.getuser(),
            "writes": [_quoted(path) for path in (home.root, *writes)],
            "image": image,
            # What lies in a temporary folder would not be there.
            "private_tmp": not any(
                path.is_relative_to(folder)
                for path in (home.root, *needs, *writes, Path(_program()))
                for folder in ("/tmp", "/var/tmp")
            ),
        }
    )
    if kind == "crontab":
        return {f"{unit}.crontab": module.crontab()}
    if kind == "systemd":
        return {f"{unit}.service": module.service(), f"{unit}.timer": module.timer()}
    if kind == "airflow":
        return {f"{unit.replace('-', '_')}.py": module.airflow()}
    return {f"{unit}.yaml": module.kubernetes()}


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    return environment.get_template("export.j2")


def _quoted(path: Path) -> str:
    """Returns a path for a unit of systemd."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return text if text == str(path) and " " not in text else f'"{text}"'


def _program() -> str:
    installed = Path(sys.executable).with_name("conveyor")
    return str(installed) if installed.exists() else "conveyor"


def _container_command(plan: SchedulePlan, home: Home, needs: tuple[Path, ...]) -> str:
    """Returns the command with the places of the home folder, and of what is needed in it, in the container."""
    places = {str(path): str(CONTAINER_HOME / path.relative_to(home.root)) for path in (home.root, *needs)}
    return shlex.join(["conveyor", "retrain", *(places.get(argument, argument) for argument in plan.arguments)])
