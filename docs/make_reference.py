"""Writes docs/reference/: the command line from click, the configuration and the Python API from the code itself.

python docs/make_reference.py            writes the pages
python docs/make_reference.py --check    ends with 1 if a page is not what the code says
"""

import dataclasses
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
import docstring_parser

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import conveyor
from pipeline.cli.main import VERBS, main
from pipeline.experiments.config import Experiment, HashedSplits, NamedSplits

FOLDER = ROOT / "docs" / "reference"
NOTE = "<!-- Made by docs/make_reference.py; change the code, and run `make docs`. -->\n\n"


def command_line() -> str:
    """Returns the page of all verbs."""
    context = click.Context(main, info_name="conveyor")
    page = "# Command line\n\n" + inspect.cleandoc(main.help or "") + "\n\n| verb | what it does |\n| --- | --- |\n"
    page += "".join(f"| [`{name}`](#conveyor-{name}) | {text} |\n" for name, (_, text) in VERBS.items())
    for name in VERBS:
        command = main.get_command(context, name)
        assert command is not None
        page += _verb(command, click.Context(command, info_name=name, parent=context))
    return page


def _verb(command: click.Command, context: click.Context) -> str:
    usage = context.get_usage().removeprefix("Usage: ")
    paragraphs = [_paragraph(text) for text in inspect.cleandoc(command.help or "").split("\n\n")]
    rows = [_option(parameter, context) for parameter in command.params if isinstance(parameter, click.Option)]
    page = f"\n## conveyor {command.name}\n\n```\n{usage}\n```\n\n" + "\n\n".join(paragraphs) + "\n"
    return page + "\n| option | meaning |\n| --- | --- |\n" + "".join(rows)


def _paragraph(text: str) -> str:
    """Returns a paragraph of click's help; one whose lines are to be kept is code."""
    return f"```\n{text[2:].strip()}\n```" if text.startswith("\b") else " ".join(text.split())


def _option(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    if record is None:  # it is hidden
        return ""
    names, text = (part.replace("|", "\\|") for part in record)
    return f"| `{names}` | {' '.join(text.split())} |\n"


def configuration() -> str:
    """Returns the page of every setting of an experiment."""
    page = (
        "# Configuration\n\nAn experiment is a Python object. `--set NAME=VALUE` changes a setting for one command; a "
        "value is JSON, or a bare word for a text. A value of a wrong type or beyond the bounds in the table is refused "
        "when the object is made. Names of experiments, data sets and models hold at most 100 letters, digits, `_`, `-` and `.`, "
        "and begin with a letter or a digit. `dataset.splits` keeps its kind: "
        "give a whole object to change it.\n\n```\nconveyor run mnist --set training.steps=300 --set gate.min_accuracy=0.9\n```\n"
    )
    hints = get_type_hints(Experiment)
    for field in dataclasses.fields(Experiment):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            page += _settings(field.name, kind)
        if field.name == "dataset":
            page += _settings("dataset.splits", NamedSplits) + _settings("dataset.splits", HashedSplits)
    return page


def _settings(prefix: str, kind: Any) -> str:
    parsed = docstring_parser.parse(kind.__doc__, docstring_parser.DocstringStyle.GOOGLE)
    meanings = {attribute.arg_name: attribute.description or "" for attribute in parsed.params}
    hints = get_type_hints(kind, include_extras=True)
    page = f"\n## {prefix}: {kind.__name__}\n\n{_text(parsed)}\n\n| setting | type | default | meaning |\n"
    page += "| --- | --- | --- | --- |\n"
    for field in dataclasses.fields(kind):
        meaning = " ".join(meanings[field.name].split()).replace("|", "\\|")
        page += f"| `{prefix}.{field.name}` | {_type(hints[field.name])} | {_default(field)} | {meaning} |\n"
    return page


def _type(hint: Any) -> str:
    """Returns a type and its bounds in words."""
    if get_origin(hint) is Callable:
        return "function"
    if get_origin(hint) is dict:
        return "values by name"
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    if hasattr(hint, "__metadata__"):
        bounds = [bound for info in hint.__metadata__ for bound in getattr(info, "metadata", [])]
        signs = {"Ge": (">=", "ge"), "Gt": (">", "gt"), "Le": ("<=", "le"), "Lt": ("<", "lt")}
        words = [f"{signs[b][0]} {getattr(m, signs[b][1])}" for m in bounds if (b := type(m).__name__) in signs]
        return ", ".join([_type(get_args(hint)[0]), *words])
    if get_origin(hint) is tuple:
        return f"list of {_type(get_args(hint)[0])}"
    if get_args(hint):
        return " or ".join(_type(part) for part in get_args(hint))
    return str(getattr(hint, "__name__", hint))


def _default(field: dataclasses.Field) -> str:
    default = _value_of_default(field)
    return "required" if default is dataclasses.MISSING else f"`{default}`"


def _value_of_default(field: dataclasses.Field) -> Any:
    """Returns a default as it is written; an object by its class."""
    factory = getattr(field.default, "default_factory", None)
    if field.default_factory is not dataclasses.MISSING:
        factory = field.default_factory
    if factory:
        made = factory()
        return "{}" if made == {} else f"{type(made).__name__}()"
    default = getattr(field.default, "default", field.default)
    return default if default is dataclasses.MISSING else json.dumps(default)


def python() -> str:
    """Returns the page of what `conveyor` exports."""
    summary, example, note = inspect.cleandoc(conveyor.__doc__ or "").split("\n\n")
    page = f"# Python\n\n{summary}\n\n```python\n{inspect.cleandoc(example)}\n```\n\n{' '.join(note.split())}\n"
    for name in conveyor.__all__:
        page += _member(name, getattr(conveyor, name), "##")
    return page


def _member(name: str, value: Any, level: str) -> str:
    parsed = docstring_parser.parse(value.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
    page = f"\n{level} {name}\n\n```python\n{_signature(name, value)}\n```\n\n{_text(parsed)}\n"
    made = docstring_parser.parse(
        getattr(value.__init__, "__doc__", "") if inspect.isclass(value) else "", docstring_parser.DocstringStyle.GOOGLE
    )
    for part in dict.fromkeys([*parsed.params, *made.params]):
        page += f"\n- `{part.arg_name}`: {' '.join((part.description or '').split())}"
    page += "\n" if parsed.params or made.params else ""
    for raised in parsed.raises:
        page += f"\nRaises `{raised.type_name}`: {' '.join((raised.description or '').split())}\n"
    if inspect.isclass(value):
        for method, function in vars(value).items():
            if not method.startswith("_") and inspect.isfunction(function) and level == "##":
                page += _member(f"{name}.{method}", function, "###")
    return page


def _signature(name: str, value: Any) -> str:
    if inspect.isclass(value) and issubclass(value, Exception):
        return f"class {name}({value.__bases__[0].__name__})"
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    if fields:
        return f"{name}({', '.join(map(_parameter, fields))})"
    parameters = [p for p in inspect.signature(value).parameters.values() if p.name != "self"]
    return f"{name}({', '.join(str(p.replace(annotation=inspect.Parameter.empty)) for p in parameters)})"


def _parameter(field: dataclasses.Field) -> str:
    """Returns a parameter with its default, as Python is written."""
    if field.default_factory is not dataclasses.MISSING:
        return f"{field.name}={type(field.default_factory()).__name__}()"
    if factory := getattr(field.default, "default_factory", None):
        return f"{field.name}={type(factory()).__name__}()"
    if field.default is dataclasses.MISSING:
        return field.name
    plain = f"{type(field.default).__name__}()" if dataclasses.is_dataclass(field.default) else repr(field.default)
    return f"{field.name}={plain}"


def _text(parsed: docstring_parser.Docstring) -> str:
    paragraphs = [parsed.short_description or "", parsed.long_description or ""]
    return "\n\n".join(" ".join(paragraph.split()) for text in paragraphs for paragraph in text.split("\n\n") if text)


PAGES: dict[str, Callable[[], str]] = {"cli": command_line, "configuration": configuration, "python": python}


def stale() -> list[str]:
    """Returns the pages that are not what the code says."""
    written = {name: FOLDER / f"{name}.md" for name in PAGES}
    return [
        name for name, make in PAGES.items() if not written[name].exists() or written[name].read_text() != NOTE + make()
    ]


if __name__ == "__main__":
    if "--check" in sys.argv:
        found = stale()
        sys.exit(f"Not what the code says: {', '.join(found)}. Run `make docs`." if found else 0)
    FOLDER.mkdir(exist_ok=True)
    for page_name, make_page in PAGES.items():
        (FOLDER / f"{page_name}.md").write_text(NOTE + make_page())
