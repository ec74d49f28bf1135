"""The verbs that run a pipeline: run, retrain, evaluate."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import click

from conveyor.errors import ConveyorError, ExitCode
from pipeline.cli.options import (
    DATA,
    EXPERIMENT,
    HOME,
    JSON,
    METADATA,
    NOTIFIER,
    SET,
    NotifierOptions,
    experiment_source,
)
from pipeline.cli.output import Verb, reply, warn
from pipeline.data.inputs import input_folder
from pipeline.experiments.config import Experiment
from pipeline.home.folders import Home
from pipeline.home.outcome import Outcome, Verdict
from pipeline.run import runner
from pipeline.run.console import Console, redirected
from pipeline.schedule.notify import Notifier
from trainer import processes


class PipelineVerb(Verb):
    """A verb that runs a pipeline."""

    interrupted = "Interrupted. Run again to continue from the last checkpoint."


@click.command(cls=PipelineVerb)
@EXPERIMENT
@SET
@HOME
@DATA
@METADATA
@JSON
def run(experiment: Experiment, home: Home, data: Path | None) -> ExitCode:
    """Run an experiment's pipeline, from files to a pushed model.

    \b
    conveyor run mnist
    conveyor run mnist --set training.steps=300 --set gate.min_accuracy=0.9
    conveyor run my_experiment.py --data ./images

    \b
    Exit codes  0    the model was pushed, or is up to date
                1    something failed; the message says what
                2    the command or a setting is wrong
                3    the model was not good enough; the stable version stays
                130  stopped or interrupted; run again to continue
    """
    outcome = runner.run(experiment, home, data, Console())
    _show(outcome)
    reply(outcome.to_dict())
    return outcome.exit_code


class NotifyingVerb(PipelineVerb):
    """A verb that notifies of a wrong experiment or setting too, which end it before its function is called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except ConveyorError as error:
            with contextlib.suppress(ConveyorError):  # a wrong address is not the error that ended the verb
                _notify_of(error, NotifierOptions.of(ctx).notifier(), experiment_source())
            raise


@click.command(cls=NotifyingVerb)
@EXPERIMENT
@SET
@HOME
@DATA
@METADATA
@NOTIFIER
@JSON
@click.option("--end-with-parent", is_flag=True, hidden=True)
def retrain(
    experiment: Experiment, home: Home, data: Path | None, notifications: NotifierOptions, end_with_parent: bool
) -> ExitCode:
    """Run an experiment's pipeline again, if there is anything new.

    \b
    conveyor add mnist ./monday
    conveyor retrain mnist --set training.warm_steps=500

    New is what the last completed run has not seen: spans, settings, code. Content decides, not time. What was ingested
    before comes from the cache. The new model must hold its own against the stable version, on the same test split.

    \b
    Exit codes  0    the model was pushed
                1    something failed; the message says what
                2    the command or a setting is wrong
                3    the model was not good enough; the stable version stays
                4    there is nothing new
                130  stopped or interrupted; run again to continue
    """
    if end_with_parent:
        processes.end_with_parent()
    notifier = notifications.notifier()
    with _failure_notified(notifier, experiment.name):
        outcome = runner.run(experiment, home, data, Console(), only_new=True)
    _show(outcome)
    reply(outcome.to_dict())
    for problem in notifier.tell({"experiment": experiment.name, **outcome.to_dict()}):
        warn(problem)
    return outcome.exit_code


@contextlib.contextmanager
def _failure_notified(notifier: Notifier, experiment: str) -> Iterator[None]:
    """Notifies of whatever ends the block, but for a stop."""
    try:
        yield
    except runner.RunStopped:
        raise
    except Exception as error:
        _notify_of(error, notifier, experiment)
        raise


def _notify_of(error: Exception, notifier: Notifier, experiment: str) -> None:
    text = str(error) if isinstance(error, ConveyorError) else f"{type(error).__name__}: {error}"
    code = getattr(error, "exit_code", ExitCode.FAILED)
    outcome = {"experiment": experiment, "verdict": Verdict.FAILED.value, "error": text, "exit_code": int(code)}
    for problem in notifier.tell(outcome):
        warn(problem)


@click.command(cls=Verb)
@EXPERIMENT
@SET
@HOME
@DATA
@JSON
def evaluate(experiment: Experiment, home: Home, data: Path | None) -> None:
    """Print the test accuracy of the newest checkpoint or pushed model.

    \b
    conveyor evaluate mnist
    conveyor evaluate my_experiment.py --data ./images

    The checkpoint must be of the same settings, data and code. Without one, the stable version is measured.

    \b
    Exit codes  0  measured
                1  something failed; the message says what
                2  a setting is wrong, or there is nothing to measure
    """
    folder = input_folder(experiment, home, data, Console().note)
    with redirected(home.log("evaluate")):
        from pipeline.run.evaluate import evaluate as measure

        measured = measure(experiment, home, folder)
    click.echo(f"{measured.what}: test accuracy {measured.accuracy:.4f} on {measured.examples:,} images")
    reply(dataclasses.asdict(measured))


def _show(outcome: Outcome) -> None:
    lines = [("verdict", outcome.verdict.value)]
    if outcome.verdict in (Verdict.NOTHING_NEW, Verdict.UP_TO_DATE):
        how = "rejected" if outcome.version is None else "pushed"
        lines.append(("last run", f"{outcome.run}, {how}; its figures follow"))
    if outcome.accuracy is not None:
        lines.append(("test accuracy", f"{100 * outcome.accuracy:.2f} %"))
        lines.append(("baseline", "none" if outcome.baseline is None else f"{100 * outcome.baseline:.2f} %"))
    lines += [("because", reason) for reason in outcome.reasons]
    lines += [("drift", sentence) for sentence in outcome.drift]
    if outcome.version is not None:
        label = f" ({outcome.label})" if outcome.label else ""
        lines += [("version", f"{outcome.version}{label}"), ("folder", str(outcome.path))]
    if outcome.report:
        lines.append(("report", outcome.report))
    if outcome.path:
        lines.append(("serve it", f"conveyor serve {Path(outcome.path).parent.name}"))
    click.echo()
    for name, value in lines:
        click.echo(f"  {name:<14} {value}")


VERBS = (run, retrain, evaluate)
