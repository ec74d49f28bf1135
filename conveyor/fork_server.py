"""A process that has imported what our programs need, and is a program at once when it is asked: it forks.

    python -m conveyor.fork_server SOCKET MODULE...

SOCKET is the number of a Unix socket, inherited from the process that asks; MODULE is what is imported. A request is
one byte with five files: a socket for the answers, the program as JSON (`Program`), its standard input, output and
error. The first answer is one byte with a process descriptor of the program, or why there is none, in text; the last
is its exit code, as a number in text, below zero for a signal. The server ends when nobody can ask any more.

The standard library's fork server has the place of its socket among temporary files, which may be too long for one; it
runs the main module of the process that asks once more; and it serves whatever else of that process asks for it.
"""

import dataclasses
import errno
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import warnings

FILES = 5  # of a request
SIGNALS = (signal.SIGTERM, signal.SIGINT)  # may be for all processes: those that are forked take them, the server not


@dataclasses.dataclass(frozen=True)
class Program:
    """What a process is to be: as `python -m COMMAND...` in a folder.

    Attributes:
      command: the module's name, and its arguments.
      folder: that it runs in.
      environment: all of it.
      path: where modules are found.
      stops: whether SIGTERM ends it, or is what it makes of it; else it comes to its end.
    """

    command: list[str]
    folder: str
    environment: dict[str, str]
    path: list[str]
    stops: bool


def serve(requests: socket.socket) -> Program | None:
    """Forks a process for each request; returns in that process with its program, in the server when it is to end."""
    running: dict[int, tuple[int, socket.socket]] = {}  # process and socket for the answers, by process descriptor
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is requests:
                    asked, files, *_ = socket.recv_fds(requests, 1, FILES)
                    if not asked:
                        return None
                    answers = socket.socket(fileno=files.pop(0)) if files else None
                    if answers and len(files) < FILES - 1:  # the kernel leaves out what would be too many for us
                        _answer(answers, os.strerror(errno.EMFILE).encode(), [])
                        answers.close()
                    elif answers:
                        process, descriptor = _fork(answers)
                        if process == 0:
                            for channel in (requests, answers, *(channel for _, channel in running.values())):
                                channel.close()
                            for other in running:
                                os.close(other)
                            return _take_over(files)
                        if process is not None:
                            running[descriptor] = process, answers
                            selector.register(descriptor, selectors.EVENT_READ)  # readable when the process ends
                    for file in files:
                        os.close(file)
                else:
                    selector.unregister(key.fd)
                    process, answers = running.pop(key.fd)
                    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                    _answer(answers, str(code).encode(), [])
                    answers.close()
                    os.close(key.fd)


def _fork(answers: socket.socket) -> tuple[int | None, int]:
    """Forks, and answers; returns the process, 0 in it, None where there is none, and the process descriptor.

    Where nobody hears the answer, the process is killed: nobody could stop it.
    """
    process = None
    try:
        with warnings.catch_warnings():
            # From Python 3.12 on it warns of threads: of OpenBLAS, which stops its own around a fork, and of jemalloc.
            warnings.simplefilter("ignore", DeprecationWarning)
            process = os.fork()
        if process == 0:
            return 0, -1
        descriptor = os.pidfd_open(process)
    except OSError as error:  # too many processes or files, or too little memory
        if process is not None:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        _answer(answers, str(error).encode(), [])
        answers.close()
        return None, -1
    if not _answer(answers, b".", [descriptor]):
        os.kill(process, signal.SIGKILL)
    return process, descriptor


def _answer(answers: socket.socket, message: bytes, descriptors: list[int]) -> bool:
    """Returns whether who asked is still there."""
    try:
        socket.send_fds(answers, [message], descriptors)
    except OSError:
        return False
    return True


def _take_over(files: list[int]) -> Program:
    """Makes a forked process, with the files of a request, what a new one would be; returns its program."""
    request, *standard = files
    with os.fdopen(request, "rb") as file:
        file.seek(0)
        program = Program(**json.load(file))
    for number, file_number in enumerate(standard):
        os.dup2(file_number, number)
        os.close(file_number)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    os.chdir(program.folder)
    os.environ.clear()
    os.environ.update(program.environment)
    sys.path[:] = program.path
    sys.argv = program.command
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # as new as in a new process; `random` does so by itself
    if not program.stops:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the process that asked, and that one sends SIGTERM
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # one that came since the fork takes effect here
    return program


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # memory that no collection touches stays shared between the processes
    if to_be := serve(socket.socket(fileno=int(sys.argv[1]))):
        runpy.run_module(to_be.command[0], run_name="__main__", alter_sys=True)
