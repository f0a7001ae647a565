"""SIGINT and SIGTERM: the first asks to finish the step and save, the second leaves at once."""

import os
import signal
from types import FrameType


class StopRequest:
    """Whether the user asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        """Return whether the user asked to stop."""
        return self.asked

    def listen(self) -> "StopRequest":
        """Take over SIGINT and SIGTERM."""
        signal.signal(signal.SIGINT, self._hear)
        signal.signal(signal.SIGTERM, self._hear)
        return self

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            os._exit(128 + number)
        self.asked = True
        os.write(2, b"\nstopping after this step, then saving; once more to leave at once\n")
