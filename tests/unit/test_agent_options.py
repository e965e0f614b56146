"""The node agent's options: those about patience."""

from __future__ import annotations

import pytest

from controller.node.agent import _options, _patience
from controller.node.plane.sessions import DEFAULT_PATIENCE
from sfc.chain import Patience


def test_two_options_are_the_patience_of_chains_that_say_nothing() -> None:
    given = _options(["--node", "n1", "--node-address", "10.0.0.1", "--tcp-idle", "600", "--other-idle", "60"])

    assert _patience(given) == Patience(tcp=600, sctp=600, udp=60, other=60)
    assert _patience(_options(["--node", "n1", "--node-address", "10.0.0.1"])) == DEFAULT_PATIENCE


@pytest.mark.parametrize("seconds", ["0", "-1", "86401", "1.5", "five", ""])
def test_a_patience_that_the_program_can_not_have_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _options(["--node", "n1", "--node-address", "10.0.0.1", "--other-idle", seconds])

    assert "give whole seconds from 1 to 86400" in capsys.readouterr().err
