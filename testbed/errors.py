"""The one exception of the testbed."""


class TestbedError(Exception):
    """Something the user must act on; the text says what is wrong, where, and what to do."""

    __test__ = False  # not a test, whatever pytest makes of the name
