"""The testbed's only exception."""


class TestbedError(Exception):
    """Something the user must act on; the text says what is wrong, where, and what to do."""

    __test__ = False  # pytest would take the name for a test class
