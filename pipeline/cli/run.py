"""The verbs that run a pipeline: run, retrain, evaluate."""

import contextlib
import dataclasses
import functools
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from components.format_export.executor import SAVED_MODEL
from conveyor import processes
from conveyor.errors import ConfigError, ConveyorError, ExitCode
from conveyor.words import counted
from pipeline.beam.runners import BeamRunner
from pipeline.cli.options import (
    BEAM,
    DATA,
    HOME,
    JSON,
    METADATA,
    NOTIFIER,
    SET,
    Chosen,
    NotifierOptions,
    choose,
    experiment,
    experiment_or_folder,
)
from pipeline.cli.output import Verb, reply, table, warn
from pipeline.data.inputs import input_folder, read_inputs
from pipeline.experiments.config import FORMATS, Experiment
from pipeline.experiments.overrides import field_of
from pipeline.home.folders import Home
from pipeline.home.lock import locked
from pipeline.home.outcome import Outcome, Verdict
from pipeline.run import runner
from pipeline.run.console import Console, redirected
from pipeline.schedule.notify import Notifier
from serving.model_store.labels import CANARY


class PipelineVerb(Verb):
    """A verb that runs a pipeline."""

    interrupted = "Interrupted. What was done is kept; run again to continue from there."


@click.command(cls=PipelineVerb)
@experiment_or_folder
@SET
@click.option("--best", is_flag=True, help="With the settings of the best trial of `conveyor tune`.")
@HOME
@DATA
@BEAM
@METADATA
@JSON
def run(chosen: Chosen, home: Home, best: bool, beam: str | None) -> ExitCode:
    """Run an experiment's pipeline, from files to a pushed model.

    \b
    conveyor run mnist
    conveyor run mnist --set training.steps=300 --set gate.min_accuracy=0.9
    conveyor run my_experiment.py --data ./images
    conveyor run --data ./flowers

    The last one makes an experiment of a folder of pictures, CLASS/*.jpg, and names it after the folder. What it chose
    is shown by `conveyor settings flowers`, and changed by `conveyor set flowers FIELD=VALUE`. --best takes the best
    trial of all searches of the experiment as it is now; without any, that of the newest search. --set comes after it.

    \b
    Exit codes  0    the model was pushed, or is up to date
                1    something failed; the message says what
                2    the command or a setting is wrong
                3    the model was not good enough; the stable version stays
                5    new images differ too much, and drift.stops is set
                130  stopped or interrupted; run again to continue
    """
    console = Console()
    chosen = _with_best(chosen, home, console) if best else chosen
    if runner.takes_part():
        runner.take_part(chosen.experiment, home, chosen.data, console)
        return ExitCode.SUCCESS
    if chosen.choice.record.definition:
        console.note(chosen.description)
    remember = functools.partial(chosen.remember, console.note)
    on = BeamRunner.chosen(home.root, beam)
    outcome = runner.run(chosen.experiment, home, chosen.data, console, beam=on, planned=remember)
    _show(outcome, home)
    if chosen.choice.assignments and outcome.verdict is Verdict.PUSHED:
        last = {field_of(assignment): assignment for assignment in chosen.choice.assignments}  # of each field
        options = " ".join(map(shlex.quote, last.values()))
        option = "--best" if best else "--set"
        keep = f"conveyor set {chosen.choice.name} {options}{home.option}"
        click.echo(f"  {option:<14} held for this run alone; to keep it: {keep}")
    reply(outcome.to_dict())
    return outcome.exit_code


def _with_best(chosen: Chosen, home: Home, console: Console) -> Chosen:
    """Returns the experiment with the settings of its best trial; those on the command line come after them."""
    from pipeline.home.provenance import data_digest
    from pipeline.run.plan import part_digests
    from pipeline.tuning.best import best_trial

    def digest() -> str:
        folder = input_folder(chosen.experiment, home, chosen.data, console.note)
        return data_digest(part_digests(read_inputs(folder, chosen.experiment)))

    best = best_trial(home, chosen.experiment, digest)
    assignments = best.trial.assignments
    console.note(
        f"best of {counted(best.trials, 'trial')}, with a held-out accuracy of {best.trial.accuracy:.4f}: "
        f"{' '.join(assignments)}"
    )
    for name, (then, now) in best.changed.items():
        console.note(f"In that search {name} was {then}; it is {now} now.")
    for assignment in chosen.choice.assignments:
        if (name := field_of(assignment)) in best.trial.settings:
            console.note(f"--set {assignment} comes after it, in place of {best.trial.settings[name]}.")
    if chosen.experiment.training.warm_steps:
        console.note("Trained from the beginning, as the trials were, and not from the stable version's weights.")
        assignments = (*assignments, "training.warm_steps=0")
    choice = dataclasses.replace(chosen.choice, assignments=(*assignments, *chosen.choice.assignments))
    return dataclasses.replace(chosen, choice=choice)


class NotifyingVerb(PipelineVerb):
    """A verb that notifies of a wrong home too, which ends it before its function is called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except ConveyorError as error:
            with contextlib.suppress(ConveyorError):  # a wrong address is not the error that ended the verb
                _notify_of(error, NotifierOptions.of(ctx).notifier(), ctx.params["experiment"])
            raise


@click.command(cls=NotifyingVerb)
@click.argument("experiment", is_eager=True)
@SET
@HOME
@DATA
@BEAM
@METADATA
@NOTIFIER
@JSON
@click.option(
    "--gc",
    "collects",
    is_flag=True,
    help="After a verdict, removes what `conveyor gc` would, unless keep_versions is 0.",
)
@click.option("--end-with-parent", is_flag=True, hidden=True)
def retrain(
    experiment: str,
    assignments: tuple[str, ...],
    home: Home,
    data: Path | None,
    beam: str | None,
    notifications: NotifierOptions,
    collects: bool,
    end_with_parent: bool,
) -> ExitCode:
    """Run an experiment's pipeline again, if there is anything new.

    \b
    conveyor add mnist ./monday
    conveyor set mnist training.warm_steps=500
    conveyor retrain mnist

    New is what the last completed run has not seen: spans, settings, code. Content decides, not time. What was ingested
    before comes from the cache. The new model must hold its own against the stable version, on the same test split.

    \b
    Exit codes  0    the model was pushed
                1    something failed; the message says what
                2    the command or a setting is wrong
                3    the model was not good enough; the stable version stays
                4    there is nothing new
                5    new images differ too much, and drift.stops is set
                130  stopped or interrupted; run again to continue
    """
    if end_with_parent:
        processes.end_with_parent()
    notifier, console, about = notifications.notifier(), Console(), {"experiment": experiment}
    with _failure_notified(notifier, about):
        chosen = choose(home, experiment, assignments, data)
        about["experiment"] = chosen.experiment.name
        remember = functools.partial(chosen.remember, console.note, replaces=False)
        on = BeamRunner.chosen(home.root, beam)
        outcome = runner.run(chosen.experiment, home, chosen.data, console, only_new=True, beam=on, planned=remember)
    _show(outcome, home)
    for problem in notifier.tell(about | outcome.to_dict()):
        warn(problem)
    removed = _collected(home, chosen.experiment, outcome) if collects else 0.0
    reply(outcome.to_dict() | {"removed_megabytes": removed})
    return outcome.exit_code


def _collected(home: Home, experiment: Experiment, outcome: Outcome) -> float:
    """Removes what no kept version needs after a run that came to a verdict; returns how many megabytes that freed."""
    if outcome.verdict not in (Verdict.PUSHED, Verdict.REJECTED) or experiment.serving.keep_versions == 0:
        return 0.0
    from pipeline.home import gc
    from pipeline.release.server_folder import served_versions

    keep = experiment.serving.keep_versions
    try:
        with processes.on_stop(lambda: None), locked(home):  # a stop signal has to wait: the verdict is not told yet
            removals = gc.collect(home, keep, experiment.name, lambda: served_versions(home))
    except Exception as problem:  # whatever it is, the run's own verdict stands
        warn(f"What no kept version needs was not removed: {problem}")
        return 0.0
    freed = round(sum(removal.megabytes for removal in removals), 1)
    versions = [Path(removal.path).name for removal in removals if removal.kind == "version"]
    which = f", among it version {', '.join(versions)}" if versions else ""
    click.echo(f"  {'removed':<14} {freed:,.1f} MB that no kept version needs{which}")
    return freed


@contextlib.contextmanager
def _failure_notified(notifier: Notifier, about: dict[str, str]) -> Iterator[None]:
    """Notifies of whatever ends the block, but for a stop.

    Args:
      notifier: whom to tell.
      about: the `experiment`, which is known better in the course of the block.
    """
    try:
        yield
    except runner.RunStopped:
        raise
    except Exception as error:
        _notify_of(error, notifier, about["experiment"])
        raise


def _notify_of(error: Exception, notifier: Notifier, experiment: str) -> None:
    text = str(error) if isinstance(error, ConveyorError) else f"{type(error).__name__}: {error}"
    code = getattr(error, "exit_code", ExitCode.FAILED)
    verdict = Verdict.of_exit_code(code)
    outcome = {"experiment": experiment, "verdict": verdict.value, "error": text, "exit_code": int(code)}
    for problem in notifier.tell(outcome):
        warn(problem)


@click.command(cls=Verb)
@experiment
@SET
@HOME
@DATA
@click.option("--version", type=click.IntRange(1), help="The version to measure. [default: the stable one]")
@click.option("--checkpoint", is_flag=True, help="Measures the newest checkpoint instead.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice((SAVED_MODEL, *FORMATS)),
    default=SAVED_MODEL,
    show_default=True,
    help="What to measure of the version; see the setting serving.formats.",
)
@click.option("--robustness", is_flag=True, help="Measures it on changed images too.")
@JSON
def evaluate(
    chosen: Chosen, home: Home, version: int | None, checkpoint: bool, format_name: str, robustness: bool
) -> None:
    """Print the test accuracy of a pushed model, or of the newest checkpoint.

    \b
    conveyor evaluate mnist                    the version that serves
    conveyor evaluate mnist --version 3
    conveyor evaluate mnist --checkpoint
    conveyor evaluate mnist --format tflite_int8
    conveyor evaluate mnist --robustness

    The checkpoint is that of the settings, data and code as they are now. It is also what is measured where nothing has
    been pushed. The first words of the answer say what was measured.

    With --robustness the test images are also moved, turned, made noisy, blurred, given less contrast, and mirrored. A
    page with a plot and examples is written to the reports.

    \b
    Exit codes  0  measured
                1  something failed; the message says what
                2  a setting is wrong, or there is nothing to measure
    """
    if version is not None and checkpoint:
        raise click.UsageError("Give --version or --checkpoint, not both.")
    if checkpoint and format_name != SAVED_MODEL:
        raise click.UsageError("A checkpoint has no --format: that is of a pushed version.")
    experiment = chosen.experiment
    model = home.models.model(experiment.serving.model_name)
    if version is not None:
        model.require(version)
    elif not checkpoint:
        version = model.stable()
    if version is None and not (home.checkpoints / experiment.name).is_dir():
        what = "no checkpoint" if checkpoint else "neither a pushed model nor a checkpoint"
        raise ConfigError(f"There is {what} of {experiment.name} in {home.root}.")
    folder = input_folder(experiment, home, chosen.data, Console().note)
    with redirected(home.log("evaluate")):
        from pipeline.run import evaluate as measure

        subject = measure.subject(experiment, home, folder, version, format_name)
        images, labels = measure.test_split(experiment, folder)
        measured = measure.evaluate(subject, images, labels)
        click.echo(f"{measured.what}: test accuracy {measured.accuracy:.4f} on {counted(measured.examples, 'image')}")
        more = _robustness(home, experiment, subject, images, labels) if robustness else {}
    reply(dataclasses.asdict(measured) | more)


def _robustness(home: Home, experiment: Experiment, subject: Any, images: Any, labels: Any) -> dict[str, Any]:
    """Measures a model on changed images, prints a table, writes a page, and returns both for scripts."""
    from pipeline.report import robustness

    rows = robustness.measure(subject.predict, images, labels)
    table(f"robustness of {subject.what}", [dataclasses.asdict(row) for row in rows], "")
    title = f"{experiment.serving.model_name}, {subject.what}"
    path = robustness.write(home, title, subject.name, rows, images)
    click.echo(f"  {'report':<14} {path}")
    return {"robustness": [dataclasses.asdict(row) for row in rows], "report": str(path)}


def _show(outcome: Outcome, home: Home) -> None:
    lines = [("verdict", outcome.verdict.value)]
    if outcome.verdict in (Verdict.NOTHING_NEW, Verdict.UP_TO_DATE):
        how = "rejected" if outcome.version is None else f"pushed as version {outcome.version}"
        lines += [("last run", f"{outcome.run}, {how}; its figures follow"), ("stable", _stable(outcome))]
    if outcome.accuracy is not None:
        lines.append(("test accuracy", f"{100 * outcome.accuracy:.2f} %"))
        lines.append(("baseline", "none" if outcome.baseline is None else f"{100 * outcome.baseline:.2f} %"))
    lines += [(name, f"{100 * accuracy:.2f} %") for name, accuracy in outcome.formats.items()]
    if outcome.decline:
        lines.append(("by class", outcome.decline))
    lines += [("because", reason) for reason in outcome.reasons]
    lines += [("drift", sentence) for sentence in outcome.drift]
    if outcome.version is not None:
        label = f" ({outcome.label})" if outcome.label else " (without a label)"
        lines += [("version", f"{outcome.version}{label}"), ("folder", str(outcome.path))]
    if outcome.report:
        lines.append(("report", outcome.report))
    if outcome.path and (outcome.verdict is Verdict.PUSHED or outcome.stable == outcome.version):
        lines.append(("serve it", f"conveyor serve {Path(outcome.path).parent.name}{home.option}"))
    click.echo()
    for name, value in lines:
        click.echo(f"  {name:<14} {value}")


def _stable(outcome: Outcome) -> str:
    if outcome.stable is None:
        return "no version"
    if outcome.version in (None, outcome.stable) or outcome.label == CANARY:
        return f"version {outcome.stable}"
    return f"version {outcome.stable}; version {outcome.version} was taken back, and a new run would only repeat it"


VERBS = (run, retrain, evaluate)
