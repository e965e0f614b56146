"""The errors of this room, and two ways to treat a refusal of the kernel (an OSError)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class LinkError(Exception):
    """The kernel refused; the message says what was tried and why it was refused."""


class NameTakenError(LinkError):
    """The pod already has an interface of that name."""


class DatapathError(Exception):
    """The program or one of its maps can not be used; the message ends with the remedy."""


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turns an OSError of the block into a LinkError: "cannot `doing`: the kernel's reason"."""
    try:
        yield
    except OSError as error:
        raise LinkError(f"cannot {doing}: {error.strerror or error}") from error


@contextmanager
def ignored(*codes: int) -> Iterator[None]:
    """Ends the block quietly at an OSError with one of these error numbers."""
    try:
        yield
    except OSError as error:
        if error.errno not in codes:
            raise
