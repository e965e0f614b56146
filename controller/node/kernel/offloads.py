"""What a host end leaves to a network card, although no card is there: checksums and segmentation.

Frames from one pod to another usually pass no host end, because the program puts them straight into the other pod, and
as the sender's kernel made them: perhaps with unfinished checksums, and many segments in one. A function that reads raw
frames (AF_PACKET) has no use for such. So those for it go out by the host end (`Interface.raw_frames`), and the kernel
completes and cuts them there, whoever sent them. Nothing else goes that way, so the offloads of all host ends are off.
"""

from __future__ import annotations

import errno
import socket

from pyroute2.ethtool.ioctl import IoctlEthtool, NoSuchDevice

CHECKSUMS = "tx-checksumming"
"""Without it, the kernel turns segmentation off, too."""


def end(ifindex: int) -> None:
    """Turns them off, as `ethtool -K … tx off`, in the calling thread's network namespace. Raises OSError."""
    device = IoctlEthtool(socket.if_indextoname(ifindex))
    try:
        device.set_offload_flag(CHECKSUMS, 0)
    except NoSuchDevice as error:
        raise OSError(errno.ENODEV, "the link is gone") from error
    finally:
        device.close()
