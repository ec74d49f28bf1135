"""Imported by the fork server first: SIGTERM, which may be for all processes, is for those that are forked from it.

The server ends by itself when the process that started it is gone.
"""

import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)
