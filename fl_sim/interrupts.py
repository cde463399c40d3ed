"""Ctrl-C, whenever it is pressed: one sentence and exit status 130, never a traceback.

While the libraries load nothing has been done that could be lost, and an exception that is raised
amid their imports may be swallowed or reported by them: the process ends at once. Once a scenario
runs, Ctrl-C raises KeyboardInterrupt, so that what is finished is kept; pressed again, it ends the
process at once.

This module loads nothing but the standard library, so that it is there before the others.
"""

from __future__ import annotations

import atexit
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
        self.pressed = False
        """Whether Ctrl-C was pressed once since the command loaded."""
        self.undo: Callable[[], None] = lambda: None
        """Removes what a command leaves behind that was stopped before anything ran."""
        self._loading = True

    def install(self) -> None:
        """Take Ctrl-C over for the rest of the process, in which nothing else runs."""
        if self._take():
            # the first to be registered is the last to be called, and then there is little left
            # that could be stopped; Python would give Ctrl-C back to the system
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)

    def _take(self) -> bool:
        """Take Ctrl-C over, unless the process was started to ignore it, as by nohup."""
        self._loading, self.pressed = True, False
        ours = threading.current_thread() is threading.main_thread()
        if not ours or signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
            return False
        signal.signal(signal.SIGINT, self._press)
        return True

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take Ctrl-C over inside the block only, in a process that does other things after it."""
        before = signal.getsignal(signal.SIGINT)
        taken = self._take()
        try:
            yield
        finally:
            if taken:
                signal.signal(signal.SIGINT, before)

    def loaded(self) -> None:
        """Say that from here on there is something to be kept."""
        self._loading = False

    def _press(self, number: int, frame: Any) -> None:
        if not self._loading and not self.pressed:
            self.pressed = True
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
