"""What every verb prints: one JSON object, tables, and errors as sentences with an exit code."""

import contextlib
import dataclasses
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from conveyor import processes
from conveyor.errors import ConveyorError, ExitCode
from pipeline.home.outcome import Verdict

# Columns whose cells may stand on several lines, and the least width of those.
SENTENCES, LINE = ("reason", "classes", "value", "folder", "file", "path"), 25
WANTS_JSON, _REPLIES = "pipeline.cli.json", "pipeline.cli.replies"


class Verb(click.Command):
    """A command that ends with the exit code that its function returns, and whose errors are sentences.

    An error that is no `ConveyorError` is a bug, and keeps its traceback.

    Attributes:
      interrupted: what Ctrl+C prints, and SIGTERM where nothing else is done.
      lines: whether each of its JSON objects stands on one line, as those of `reply_now` do.
    """

    interrupted = "Interrupted."
    lines = False

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        as_json = "--json" in args  # click takes the arguments out of the list
        try:
            return super().make_context(info_name, args, parent, **extra)
        except (ConveyorError, click.UsageError) as problem:
            if as_json:
                click.echo(json.dumps(_failure(problem), indent=None if self.lines else 1))
            if isinstance(problem, click.UsageError):
                raise  # click prints it, with the usage
            error(problem)
            sys.exit(int(problem.exit_code))

    def invoke(self, ctx: click.Context) -> Any:
        with (
            processes.interrupted_by_sigterm(),
            _reported(ctx.meta.get(WANTS_JSON, False), self.interrupted, self.lines) as replies,
        ):
            ctx.meta[_REPLIES] = replies
            code = super().invoke(ctx)
        gc.freeze()  # else the interpreter looks through all of TensorFlow's objects once more before it ends
        ctx.exit(int(code or ExitCode.SUCCESS))


class StreamingVerb(Verb):
    """A verb that goes on, and prints JSON as things happen, an object on a line."""

    lines = True


def wants_json() -> bool:
    """Whether `--json` is given."""
    return bool(click.get_current_context().meta.get(WANTS_JSON))


def reply(value: Any) -> None:
    """Prints a value as JSON when the verb ends, if `--json` is given."""
    click.get_current_context().meta[_REPLIES].at_the_end.append(value)


def reply_now() -> Callable[[Any], None]:
    """Returns what prints a value as JSON on one line at once, if `--json` is given: for a verb that goes on.

    It may be called from any thread, and must be asked for in the verb's own, where click knows its context.
    """
    replies: _Replies = click.get_current_context().meta[_REPLIES]
    return replies.print_now


def warn(problem: object) -> None:
    """Prints a sentence that does not end the verb, on standard error."""
    click.secho(f"conveyor: {problem}", err=True, fg="yellow")


def error(problem: object) -> None:
    """Prints an error, on standard error."""
    click.secho(f"conveyor: {problem}", err=True, fg="red")


def table(title: str, rows: list[dict[str, Any]], nothing: str, left_out: tuple[str, ...] = ()) -> None:
    """Prints rows as a table that fits the terminal; nothing with `--json`.

    Args:
      title: stands above it.
      rows: which all have the same keys.
      nothing: what is printed where there are no rows.
      left_out: columns that are left out where the terminal is too narrow, the first ones first, after empty ones.
    """
    if wants_json():
        return
    import rich.box
    import rich.console
    import rich.markup
    import rich.table

    if not rows:
        click.echo(nothing)
        return
    console = rich.console.Console()
    if not console.is_terminal:  # a pipe has no width, and a script wants whole lines
        console.width = 250
    columns = {name: [_header(name), *(_cell(name, row[name]) for row in rows)] for name in rows[0]}
    empty = [name for name, (_, *cells) in columns.items() if not any(cells)]
    missing = []
    for name in dict.fromkeys((*empty, *left_out)):
        if _width(columns) <= console.width:
            break
        del columns[name]
        missing.append(_header(name))
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, title=title, title_justify="left")
    for header, *_ in columns.values():
        shown.add_column(header, overflow="fold", no_wrap=header not in SENTENCES)
    for cells in list(zip(*columns.values(), strict=True))[1:]:
        shown.add_row(*map(rich.markup.escape, cells))
    console.print(shown)
    if missing:
        console.print(f"  left out, for they do not fit: {', '.join(missing)}", highlight=False)


def _header(column: str) -> str:
    """Returns a column's name in words; that of a setting, such as `training.batch_size`, as it is written."""
    return column if "." in column else column.replace("_", " ")


def _width(columns: dict[str, list[str]]) -> int:
    """Returns how many characters wide a table is at least: three beside each cell, and sentences in lines."""
    import rich.cells

    widest = {name: max(map(rich.cells.cell_len, cells)) for name, cells in columns.items()}
    return 1 + sum(3 + (min(width, LINE) if name in SENTENCES else width) for name, width in widest.items())


def _cell(column: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if column == "accuracy" else f"{value:,.1f}"
    return "" if value is None else str(value)


@dataclasses.dataclass
class _Replies:
    """What is printed as JSON.

    Attributes:
      standard_output: the descriptor to write to; None without `--json`.
      at_the_end: values that are printed when the verb ends.
      lines: whether each stands on one line.
      failure: what ended the verb, printed in their place; None where nothing went wrong.
    """

    lines: bool
    standard_output: int | None = None
    at_the_end: list[Any] = dataclasses.field(default_factory=list)
    failure: dict[str, Any] | None = None

    def print_now(self, value: Any) -> None:
        """Prints a value on one line at once."""
        if self.standard_output is not None:
            os.write(self.standard_output, f"{json.dumps(value)}\n".encode())


@contextlib.contextmanager
def _reported(as_json: bool, interrupted: str, lines: bool) -> Iterator[_Replies]:
    """Yields the replies, printed as JSON at the end; ends the process with a sentence where an error comes."""
    replies = _Replies(lines)
    try:
        with _standard_output_for_json(as_json, replies, interrupted):
            yield replies
    except ConveyorError as problem:
        error(problem)
        processes.leave(int(problem.exit_code))
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one ends the process at once
            signal.signal(number, signal.SIG_DFL)
        error(interrupted)
        processes.leave(int(ExitCode.INTERRUPTED))


@contextlib.contextmanager
def _standard_output_for_json(as_json: bool, replies: _Replies, interrupted: str) -> Iterator[None]:
    """Keeps standard output for the replies, where JSON is wanted; all else then goes to standard error."""
    if not as_json:
        yield
        return
    sys.stdout.flush()
    saved = replies.standard_output = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    except Exception as problem:  # a bug keeps its traceback, and scripts learn of it too
        replies.failure = _failure(problem)
        raise
    except KeyboardInterrupt:
        replies.failure = {"verdict": Verdict.STOPPED.value, "error": interrupted}
        raise
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)
        replies.standard_output = None
        for value in [replies.failure] if replies.failure else replies.at_the_end:
            click.echo(json.dumps(value, indent=None if replies.lines else 1))


def _failure(problem: Exception) -> dict[str, Any]:
    code = getattr(problem, "exit_code", ExitCode.FAILED)
    verdict = Verdict.of_exit_code(code)
    text = problem.format_message() if isinstance(problem, click.ClickException) else str(problem)
    run = {"run": problem.run} if hasattr(problem, "run") else {}
    return {"verdict": verdict.value, "error": text, **run}
