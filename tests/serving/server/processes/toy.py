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
        if path.name == "deadly" or (path.name == "deadly to the second" and path.exists()):
            os._exit(7)
        if path.name == "deadly to the second":
            path.touch()
        while path.name == "slow" and not path.exists():
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
    }
    connection.send(None)
    link = Link(connection, answers, ended=over.set)
    said("asked", link.call("question"))
    over.wait()
    said("end")
