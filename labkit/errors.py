"""The two ways a request to the lab ends badly, each carrying one sentence for a person."""


class UsageError(ValueError):
    """Bad input, found before anything starts. The text names the value, the limit and the fix."""


class TrialError(RuntimeError):
    """A trial that could not be carried out. The text says which side failed, and how."""
