"""A process of a fleet that loads nothing: it writes down what it is told, and fails where a path says so."""

import os
import threading
import time

from serving.server.processes.link import Link
from serving.server.protocol.errors import StatusError


def run(given, number, connection):
    if given.cannot_start:
        connection.send(StatusError("INVALID_ARGUMENT", "on purpose"))
        return
    over, log = threading.Event(), given.folder / f"{number}.{os.getpid()}"

    def said(*words):
        with log.open("a") as file:
            print(*words, file=file)

    def prepare(model, version, path):
        if path.name == "bad":
            raise StatusError("DATA_LOSS", "damaged")
        if path.name == "odd":
            raise ValueError("not ours")
        if path.name == "deadly":
            os._exit(7)
        if path.name == "deadly to the second":
            try:
                path.touch(exist_ok=False)
            except FileExistsError:
                if not (second := path.with_name("second")).exists():
                    second.touch()
                    os._exit(7)
        while path.name.startswith("slow") and not path.exists():
            time.sleep(0.01)
        said("prepare", model, version)

    def label(labels):
        while (given.folder / "hang").exists():
            time.sleep(0.01)
        said("label", labels)

    answers = {
        "prepare": prepare,
        "label": label,
        "offer": lambda model, version: said("offer", model, version),
        "unload": lambda model, version: said("unload", model, version),
        "listen": lambda: said("listen"),
        "take": lambda: number,
        "ping": lambda: None,
    }
    connection.send(None)
    link = Link(connection, answers, ended=over.set)
    said("asked", link.call("question"))
    over.wait()
    said("end")
