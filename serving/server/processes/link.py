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
          answers: what the other process may call, by name; each call gets a thread of its own.
          ended: called when the other process has ended, or has closed the link.
        """
        self._connection, self._answers, self._ended = connection, answers, ended
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future] = {}
        self._changing = threading.Lock()  # of what is waiting
        self.closed = False
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def call(self, name: str, *arguments: Any, timeout: float | None = None) -> Any:
        """Returns what the other process answers.

        Raises:
          StatusError: as it raises; UNKNOWN for what is none there.
          LinkClosed: it has ended.
          concurrent.futures.TimeoutError: it did not answer in so many seconds.
        """
        return self.submit(name, *arguments).result(timeout)

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
        self._send(("call", number, name, arguments))
        return future

    def close(self) -> None:
        """Tells the other process that nothing more is asked of it."""
        self._send(("close", 0))  # a pipe that a thread reads stays open

    def _send(self, message: Any) -> None:
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:  # it has ended, which the reader sees
            pass

    def _read(self) -> None:
        try:
            while True:
                kind, number, *rest = self._connection.recv()
                if kind == "close":
                    raise EOFError
                if kind == "call":
                    threading.Thread(target=self._answer, args=(number, *rest), name="answer", daemon=True).start()
                    continue
                result, error = rest
                with self._changing:
                    future = self._waiting.pop(number)
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)
        except (EOFError, OSError):
            with self._changing:
                self.closed = True
                waiting = list(self._waiting.values())
                self._waiting.clear()
            for future in waiting:
                future.set_exception(LinkClosed())
            self._ended()

    def _answer(self, number: int, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            result, error = self._answers[name](*arguments), None
        except StatusError as problem:
            result, error = None, problem
        except Exception as problem:  # which the other process may not be able to read
            result, error = None, StatusError("UNKNOWN", f"{type(problem).__name__}: {problem}")
        self._send(("answer", number, result, error))
