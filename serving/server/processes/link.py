"""Calls from process to process over a pipe, both ways at once."""

import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

from serving.server.protocol.errors import StatusError


class LinkClosed(Exception):
    """The other process has ended, or is about to."""


class Link:
    """One end of a pipe, whose other end is a Link in another process of this server.

    Arguments and results are pickled. Nothing but a process that this server has started holds the other end.

    Attributes:
      closed: whether the other process has ended, or has closed the link.
    """

    def __init__(
        self,
        connection: Connection,
        answers: Mapping[str, Callable[..., Any]],
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        """Begins to listen.

        Args:
          connection: the pipe's end.
          answers: what the other process may call, by name. Each call gets a thread of its own; one that returns a
            Future has left it, and is answered when that is done.
          ended: called when the other process has ended, or has closed the link.
        """
        self._connection, self._answers, self._ended = connection, answers, ended
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future] = {}
        self._changing = threading.Lock()  # of what is waiting
        self.closed = False
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def call(self, name: str, *arguments: Any) -> Any:
        """Returns what the other process answers.

        Raises:
          StatusError: as it raises; UNKNOWN for what is none there.
          LinkClosed: it has ended.
        """
        return self.submit(name, *arguments).result()

    def submit(self, name: str, *arguments: Any) -> Future:
        """Begins a call; see `call`."""
        future: Future = Future()
        future.set_running_or_notify_cancel()  # whoever waits may go; the answer comes all the same
        with self._changing:
            if self.closed:
                future.set_exception(LinkClosed())
                return future
            number = next(self._numbers)
            self._waiting[number] = future
        self._send("call", number, name, arguments)
        return future

    def close(self) -> None:
        """Tells the other process that nothing more is asked of it."""
        self._send("close", 0, None, None)  # a pipe that a thread reads stays open

    def _send(self, *message: Any) -> None:
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:  # it has ended, which the reader sees
            pass

    def _read(self) -> None:
        try:
            while True:
                kind, number, first, second = self._connection.recv()
                if kind == "close":
                    return
                if kind == "call":
                    threading.Thread(target=self._answer, args=(number, first, second), daemon=True).start()
                else:
                    with self._changing:
                        future = self._waiting.pop(number)
                    _settle(future, first, second)
        except (EOFError, OSError):
            return
        finally:  # whatever it was: nobody is to wait for what nobody reads
            with self._changing:
                self.closed = True
                waiting = list(self._waiting.values())
                self._waiting.clear()
            for future in waiting:
                future.set_exception(LinkClosed())
            self._ended()

    def _answer(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            result = self._answers[name](*arguments)
        except Exception as error:
            self._reply(number, None, error)
            return
        if isinstance(result, Future):
            result.add_done_callback(lambda done: self._reply(number, None, _failure(done)))
        else:
            self._reply(number, result, None)

    def _reply(self, number: int, result: Any, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, StatusError):  # which the other process may not be able to read
            error = StatusError("UNKNOWN", f"{type(error).__name__}: {error}")
        try:
            self._send("answer", number, result, error)
        except Exception as problem:  # the result cannot be pickled
            self._send("answer", number, None, StatusError("INTERNAL", f"{type(problem).__name__}: {problem}"))


def _failure(done: Future) -> BaseException | None:
    return StatusError("UNAVAILABLE", "The server is stopping.") if done.cancelled() else done.exception()


def _settle(future: Future, result: Any, error: BaseException | None) -> None:
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
