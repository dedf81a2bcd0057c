"""The two ways a request to the lab ends badly, each carrying one sentence for a person."""

import reprlib


class UsageError(ValueError):
    """Bad input, found before anything starts. The text names the value, the limit and the fix."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the sentence alone."""
        return [f"{type(self).__name__}: {self}"]


class TrialError(RuntimeError):
    """A trial that could not be carried out. The text says which side failed, and how."""


class NoRoomError(TrialError):
    """There is no room on the disk for what a trial records, and none for the next trial's either."""


def shown(value: object) -> str:
    """A value as a sentence names it: whatever it is, and shortened."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes out no number of more than 4,300 digits
        return "That number"
