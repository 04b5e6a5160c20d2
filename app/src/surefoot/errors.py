"""The one error tree: four families, by who must act.

Errors carry fields, not only text, so that a caller can decide and a person can read. HTTP codes live in
``serving`` and exit codes in ``cli``; neither is known here.
"""

from __future__ import annotations


class SurefootError(Exception):
    """Base of everything this project raises on purpose.

    Args:
        what: what failed, as a clause ("artifact model.onnx does not match its manifest").
        found: what was there.
        expected: what should have been.
        hint: what to do next.
    """

    def __init__(self, what: str, *, found: str = "", expected: str = "", hint: str = "") -> None:
        self.what = what
        self.found = found
        self.expected = expected
        self.hint = hint
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        parts = [self.what]
        if self.found:
            parts.append(f"found: {self.found}")
        if self.expected:
            parts.append(f"expected: {self.expected}")
        if self.hint:
            parts.append(f"what to do: {self.hint}")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, str]:
        """The error as plain values, for ``--json`` and for the wire."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "found": self.found,
            "expected": self.expected,
            "hint": self.hint,
        }


class UntrustedRelease(SurefootError):
    """The release must not be believed: signature, hash, length, version, class or freshness. The publisher acts."""


class DeviceUnable(SurefootError):
    """The device cannot do it now: space, state, memory, hardware, another operation. The operator acts."""


class BadRequest(SurefootError):
    """The caller asked for something that makes no sense. The caller acts."""


class TransportFailed(SurefootError):
    """Bytes did not arrive. Trying again later may help."""
