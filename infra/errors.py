"""One tree of errors, named for the fact; each says what is wrong, where, and what to do."""

from __future__ import annotations


class TriplaneError(Exception):
    """Anything the platform itself reports."""


class Refused(TriplaneError):
    """A guard said no and nothing was changed; the text says what would have to be otherwise."""


class WiringError(TriplaneError):
    """The code does not fit together: found at start, with the name of the culprit."""


class Unacceptable(TriplaneError):
    """A message cannot be taken in. `reason` is a stable code, the text names the field and the remedy."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the code beside the words."""
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class PositionLost(TriplaneError):
    """A stored position does not exist in the log any more, or belongs to another topic: an operator must decide."""
