"""Settings below /proc/sys/net, which show the calling thread's network namespace."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/proc/sys/net")
LOCAL_PORTS = ROOT / "ipv4" / "ip_local_port_range"
"""Source ports of sockets that choose none themselves, of IPv6, too: first and last, separated by a blank."""


def set_interface(family: str, interface: str, **values: int) -> None:
    """Sets `values` for one interface; `family` is "ipv4" or "ipv6". Raises OSError.

    Does nothing when the family is off for the interface: IPv6 needs an MTU of 1280, and a kernel that has it.
    """
    folder = ROOT / family / "conf" / interface
    if not folder.exists():
        return
    for key, value in values.items():
        (folder / key).write_text(str(value))
