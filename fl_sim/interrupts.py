"""Ctrl-C, whenever it is pressed: one sentence and exit status 130, never a traceback.

While the libraries load nothing has been done that could be lost, and an exception that is raised
amid their imports may be swallowed or reported by them: the process ends at once. Once a scenario
runs, Ctrl-C raises KeyboardInterrupt, so that what is finished is kept; pressed again, it ends the
process at once.

This module loads nothing but the standard library, so that it is there before the others.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

STOPPED = 130
"""Exit status of a process that the user stopped, as shells have it."""

SHOW_CURSOR = "\x1b[?25h"
"""Terminal code; a progress bar hides it."""


class Interrupts:
    """What Ctrl-C does to one command.

    Parameters
    ----------
    command : str
        Its name, which its messages begin with.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.undo: Callable[[], None] = lambda: None
        """Removes what a command leaves behind that was stopped before anything ran."""
        self._loading, self._pressed = True, False

    def install(self) -> None:
        """Take Ctrl-C over, unless the process was started to ignore it, as by nohup."""
        self._loading, self._pressed = True, False
        ours = threading.current_thread() is threading.main_thread()
        if ours and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
            signal.signal(signal.SIGINT, self._press)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take Ctrl-C over inside the block only, in a process that does other things after it."""
        before = signal.getsignal(signal.SIGINT)
        self.install()
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, before)

    def loaded(self) -> None:
        """Say that from here on there is something to be kept."""
        self._loading = False

    def _press(self, number: int, frame: Any) -> None:
        if not self._loading and not self._pressed:
            self._pressed = True
            raise KeyboardInterrupt
        with suppress(OSError):
            if self._loading:
                self.undo()
                self._say("Stopped by the user before anything ran.")
            else:
                self._say("Stopped at once; what was not yet written is lost.")
        os._exit(STOPPED)

    def _say(self, sentence: str) -> None:
        """Write past Python's buffers, in which the code that was interrupted may be."""
        if os.isatty(1):
            os.write(1, SHOW_CURSOR.encode())
        os.write(2, f"{self.command}: {sentence}\n".encode())


INTERRUPTS = Interrupts("fl-sim")
"""Of the process that runs `fl-sim`; in workers nothing is installed."""
