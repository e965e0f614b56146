"""Keeps all others from the tunnel's port: what the node's pods send to other nodes may bear the node's own address."""

from __future__ import annotations

import subprocess

from controller.node.kernel.errors import LinkError

TABLE = "sfc_tunnel"
_TIMEOUT_SECONDS = 10
_RULES = """\
table inet {table}
delete table inet {table}
table inet {table} {{
	comment "{comment}"
	chain forward {{
		type filter hook forward priority -200; policy accept;
		udp dport {port} counter drop
	}}
	chain input {{
		type filter hook input priority -200; policy accept;
		udp dport {port} iifname != {{ "{interface}", "lo" }} counter drop
	}}
}}
"""


def guard(port: int, interface: str) -> None:
    """Drops what is forwarded to the UDP port, and what comes to it by another interface than that one.

    In the calling thread's network namespace. Does nothing if the rules are there. Raises LinkError.
    """
    comment = f"sfc: UDP port {port} by {interface}"
    if comment not in _nft("list", "table", "inet", TABLE, missing_is_fine=True):
        _nft("-f", "-", rules=_RULES.format(table=TABLE, comment=comment, port=port, interface=interface))


def _nft(*arguments: str, rules: str = "", missing_is_fine: bool = False) -> str:
    try:
        done = subprocess.run(
            ["nft", *arguments],
            input=rules, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LinkError(f"cannot guard the tunnel's port: nft: {error}") from error
    if done.returncode and not (missing_is_fine and "No such file or directory" in done.stderr):
        raise LinkError(f"cannot guard the tunnel's port: nft {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
