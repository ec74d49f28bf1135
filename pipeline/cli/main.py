"""The `conveyor` command: a group of verbs, each of which is imported when it is used."""

import importlib
import json
import os
import sys
from typing import Any

import click

from conveyor.errors import ExitCode

# Verb -> the module that holds it, and the first line of its help, so that `--help` need not import them all.
VERBS = {
    "run": ("run", "Run an experiment's pipeline, from files to a pushed model."),
    "retrain": ("run", "Run an experiment's pipeline again, if there is anything new."),
    "schedule": ("schedule", "Retrain by the clock."),
    "compile": ("schedule", "Write a run as a pipeline for Kubeflow Pipelines or Vertex."),
    "new": ("experiments", "Write the Python file of a new experiment, for a folder of pictures."),
    "settings": ("experiments", "Show an experiment's settings, and where each comes from."),
    "set": ("experiments", "Change settings of an experiment for all commands to come."),
    "tune": ("experiments", "Try different settings, and find the best ones."),
    "evaluate": ("run", "Print the test accuracy of a pushed model, or of the newest checkpoint."),
    "fetch": ("data", "Download the canonical files of a data set, and verify them."),
    "check": ("data", "Read every file of an experiment's data, and list what is wrong."),
    "add": ("data", "Add labelled images to an experiment's data, as its next span."),
    "remove": ("data", "Take a span out of an experiment's data."),
    "runs": ("models", "List the runs and how they ended."),
    "models": ("models", "List the versions of each model, and the rejected models."),
    "rollback": ("models", "Make an earlier version stable again."),
    "promote": ("models", "Make the canary stable."),
    "lineage": ("models", "Print where a version came from, down to its input files."),
    "gc": ("models", "Remove old versions, and what only they needed."),
    "serve": ("serving", "Serve the pushed models over gRPC and REST, with a page to try them."),
    "predict": ("serving", "Ask a server for the classes of picture files."),
    "loadtest": ("serving", "Measure a server's throughput and latency."),
    "doctor": ("machine", "Check the installation, the home folder and the data."),
    "worker": ("machine", "Start workers for Beam, beside a TaskManager of Flink or an executor of Spark."),
}


class LazyGroup(click.Group):
    """A group that imports the module of a verb when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        try:
            module = importlib.import_module(f"pipeline.cli.{VERBS[cmd_name][0]}")
        except KeyboardInterrupt:
            sys.exit(int(ExitCode.INTERRUPTED))
        return next(verb for verb in module.VERBS if verb.name == cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as problem:
            if "--json" in args:
                click.echo(json.dumps({"verdict": "failed", "error": problem.format_message()}, indent=1))
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    subcommand_metavar="VERB [ARGS]...",
)
@click.version_option(package_name="conveyor-tfx", prog_name="conveyor")
def main() -> None:
    """Takes labelled images to a gated, pushed, servable network.

    An EXPERIMENT is mnist, cifar10, mnist_best, cifar10_best, a Python file that sets EXPERIMENT, or the name of one
    that the home folder knows.
    `conveyor VERB --help` explains a verb.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its errors, and not what it says when it ends
