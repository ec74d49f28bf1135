"""A deadline for a whole HTTP call: a socket's own timeout begins anew with every byte that a server sends."""

import contextlib
import http.client
import socket
import ssl
import threading
import urllib.request
from typing import Any


class Deadline:
    """Ends a connection when the time is up, whatever the server sends meanwhile; a context.

    Attributes:
      passed: whether the time is up.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._seconds = seconds
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> "Deadline":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def opener(
        self, *, proxies: dict[str, str] | None, context: ssl.SSLContext | None
    ) -> urllib.request.OpenerDirector:
        """Returns an opener whose connections this deadline ends.

        Args:
          proxies: by scheme; None for those of the environment.
          context: of https.
        """
        return urllib.request.build_opener(
            urllib.request.ProxyHandler(proxies), _HttpHandler(self), _HttpsHandler(self, context)
        )

    def watch(self, connected: socket.socket) -> None:
        """Ends a socket too when the time is up."""
        self._socket = connected
        if self.passed:
            self._cut()

    def _cut(self) -> None:
        self.passed = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it has ended by itself
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # beneath TLS, which would wait for a reply


def _watched(base: Any, deadline: Deadline) -> Any:
    class Connection(base):
        def connect(self) -> None:
            super().connect()
            deadline.watch(self.sock)

    return Connection


class _HttpHandler(urllib.request.HTTPHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._connection = _watched(http.client.HTTPConnection, deadline)

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connection, req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def __init__(self, deadline: Deadline, context: ssl.SSLContext | None) -> None:
        super().__init__(context=context)
        self._connection, self._options = _watched(http.client.HTTPSConnection, deadline), {"context": context}

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connection, req, **self._options)
