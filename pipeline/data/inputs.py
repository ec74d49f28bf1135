"""The input of a run: the parts of an experiment's data, and the checksums of their files."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from components.image_example_gen import spans
from components.image_example_gen.data_error import DataError
from components.image_example_gen.spans import MANIFEST, Part
from conveyor.errors import ConfigError, StorageError, storage_errors
from conveyor.files import file_digest
from pipeline.data.published import CANONICAL
from pipeline.experiments.config import Experiment
from pipeline.home.folders import Home


@dataclasses.dataclass(frozen=True)
class Input:
    """A part of the input, and the content of its files.

    Attributes:
      part: the base files, or a span.
      files: SHA-256 of each file, by its name below the part's folder.
    """

    part: Part
    files: dict[str, str]

    @property
    def digest(self) -> str:
        """The SHA-256 over names and content, and never times."""
        lines = "".join(f"{name} {digest}\n" for name, digest in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def input_folder(experiment: Experiment, home: Home, source: Path | None, say: Callable[[str], object]) -> Path:
    """Returns the folder of an experiment's input files; published files are fetched and verified.

    Args:
      experiment: whose data.
      home: where downloads go.
      source: the folder that the user names; None for a download, or for what is in the home folder.
      say: prints a line.

    Raises:
      ConfigError: the data are the user's own, and no folder is named, or there is none.
      FetchError: the published files could not be had.
    """
    folder = input_place(experiment, home, source)
    if experiment.dataset.name in CANONICAL:
        from pipeline.data.fetch import fetch  # with what downloads, which takes time to import

        fetch(experiment.dataset.name, home.data, source, say)
        if source and source.is_dir() and source.resolve() != folder.resolve() and (names := spans.span_names(source)):
            say(f"The spans in {source} are not used: {', '.join(names)}. `conveyor add` brings them to {folder}.")
    return folder


def input_place(experiment: Experiment, home: Home, source: Path | None) -> Path:
    """Returns the folder of an experiment's input files, whether published ones are there or not; see `input_folder`.

    Raises:
      ConfigError: the data are the user's own, and no folder is named, or there is none.
    """
    check_source(experiment, home, source)
    name = experiment.dataset.name
    return home.data / name if source is None or name in CANONICAL else source.resolve()


def check_source(experiment: Experiment, home: Home, source: Path | None) -> None:
    """Checks that there is a folder of the data: the one that is named, or for the user's own one in the home folder.

    Raises:
      ConfigError: there is none.
    """
    name, canonical = experiment.dataset.name, experiment.dataset.name in CANONICAL
    if source is not None and not (source.exists() if canonical else source.is_dir()):
        way = "" if canonical else f" `conveyor set {experiment.name} --data FOLDER` names another for good."
        raise ConfigError(f"--data {source}: there is no such folder.{way}")
    if source is None and not canonical and not (home.data / name).is_dir():
        raise ConfigError(f"The data set {name} is your own: give its folder with --data.")


def read_inputs(folder: Path, experiment: Experiment) -> tuple[Input, ...]:
    """Returns the base files and the spans that a run takes, all of them read once for their checksums.

    Raises:
      DataError: a span's files are not those that `conveyor add` wrote down.
    """
    return tuple(read_input(part) for part in spans.parts(folder, experiment.dataset, experiment.spans))


def read_input(part: Part) -> Input:
    """Returns the checksums of one part's files; see `read_inputs`."""
    found = read_files(part)
    manifest = part.folder / MANIFEST
    if manifest.exists():
        added = _added(manifest)
        changed = [n for n in sorted(added.keys() | found.files.keys()) if added.get(n) != found.files.get(n)]
        if changed:
            raise DataError(*(_change(part.folder / name, name in added, name in found.files) for name in changed))
    return found


def _change(path: Path, was_added: bool, is_there: bool) -> str:
    state = "missing" if not is_there else "another" if was_added else "a file more"
    return str(DataError.at(path, None, "the file that was added with this span", state))


def read_files(part: Part) -> Input:
    """Returns the checksums of one part's files, whether they are those that were added or not.

    Raises:
      DataError: a name is not UTF-8, as a run's records are.
      StorageError: a file cannot be read.
    """
    paths = sorted({path for pattern in part.dataset.splits.patterns.values() for path in part.files(pattern)})
    for path in (part.folder, *paths):
        if not _is_utf8(path):
            wrong = next(place for place in (*reversed(path.parents), path) if not _is_utf8(place))
            raise DataError.at(wrong.parent, None, "names in UTF-8", ascii(wrong.name))
    with storage_errors(f"The files in {part.folder} cannot be read"):
        return Input(part, {str(path.relative_to(part.folder)): file_digest(path) for path in paths})


def _added(manifest: Path) -> dict[str, str]:
    """Returns the checksums that `conveyor add` wrote down."""
    try:
        files = json.loads(manifest.read_bytes())["files"]
    except OSError as error:
        raise StorageError(f"{manifest} cannot be read: {error}.") from error
    except (ValueError, KeyError, TypeError):
        files = None
    if not isinstance(files, dict):
        expected = "the checksums that `conveyor add` writes"
        raise DataError.at(manifest, None, expected, "something else; delete the file to use the images unchecked")
    return files


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
