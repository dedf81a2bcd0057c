"""The two ways a request to the lab ends badly, each carrying one sentence for a person."""


class UsageError(ValueError):
    """Bad input, found before anything starts. The text names the value, the limit and the fix."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the sentence alone."""
        return [f"{type(self).__name__}: {self}"]


class TrialError(RuntimeError):
    """A trial that could not be carried out. The text says which side failed, and how."""
