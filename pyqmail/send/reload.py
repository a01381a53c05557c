"""HUP: the control files as they are now, all of them, or none and the log says why (qmail-send(8))."""

import os
from collections.abc import Callable

from pyqmail.control import ControlUnreadable
from pyqmail.formats.logline import safe_words
from pyqmail.log.events import Alert
from pyqmail.send.controls import Controls, read_controls
from pyqmail.send.means import Means

SLEEP_S = 10


class Reload:
    """Reads the controls again; ``changed`` is called when new ones are in force."""

    def __init__(self, means: Means, changed: Callable[[Controls], None]) -> None:
        self._means = means
        self._changed = changed

    def reread(self) -> None:
        """Take the control files as they are now."""
        layout, log = self._means.layout, self._means.log
        try:
            os.chdir(layout.home)
        except OSError:
            log(Alert(b"unable to reread controls: unable to switch to home directory"))
            return
        try:
            new = read_controls(layout.home, self._means.controls)
        except ControlUnreadable as error:
            self._keep_old(str(error))
        else:
            for fault in new.faults[:1]:
                self._keep_old(fault)
            if not new.faults:
                self._means.controls = new
                self._changed(new)
        self._return_to_queue()

    def _keep_old(self, why: str) -> None:
        self._means.log(Alert(b"unable to reread " + why.partition(":")[0].encode()))
        self._means.log(Alert(safe_words(why) + b"; all controls stay as they were"))

    def _return_to_queue(self) -> None:
        try:
            os.chdir(self._means.layout.queue)
        except OSError:
            self._means.log(Alert(b"unable to switch back to queue directory; HELP! sleeping..."))
            self._means.loop.call_later(SLEEP_S, self._return_to_queue)
