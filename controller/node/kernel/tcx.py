"""The shortcuts: our programs at a link's tcx hook, which the kernel runs before the filters (Linux 6.6).

One is at the links of replicas; the other, at the node's own interface, leads past the tunnel's device (underlay.py).

The filter (tc.py) stays beneath it, with the cross-connect. The shortcut only jumps into the cross-connect, by way of a
map that the leading agent fills. When that agent ends, however it does, the kernel empties the map, and frames take the
filter. So nothing that an agent left behind at tcx decides anything, and an agent of any version may lead next.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache

from bcc.libbcc import lib

from controller.node.kernel.errors import ignored

SHORTCUT, UNDERLAY_SHORTCUT = "sfc_shortcut", "sfc_underlay"
"""The programs' names in bpf/cross_connect.c. They make a program at tcx ours; all others are left alone."""
JUMP, UNDERLAY_JUMP = "shortcut_to", "underlay_to"
"""The maps for their jumps."""

_TCX_INGRESS = 46
_F_REPLACE, _F_BEFORE = 1 << 2, 1 << 3
_LOOPBACK = 1
"""The loopback's interface index in every network namespace."""
_MOST_PROGRAMS = 64
"""At one hook of one interface (BPF_MPROG_MAX)."""
_OPTIONS = struct.Struct("@NIi")
"""The beginning of libbpf's struct bpf_prog_attach_opts: size, flags, the program that is replaced."""
_PROGRAM_INFO = struct.Struct("=4xI56x16s")
"""The beginning of struct bpf_prog_info, with only two fields: number and name."""
_GONE = (errno.ENOENT, errno.ENODEV)
"""No such program at the hook, or none any more; no such link."""


class Shortcut:
    """The loaded shortcut: shut at first, so that frames take the filter."""

    def __init__(self, fd: int, jump: int, program: int) -> None:
        """Three open descriptors: of the shortcut and of the map for its jump, which `close` closes, and of the program
        behind it. No other process may hold the map: the kernel empties it when nobody holds it any more."""
        self.fd = fd
        self.number, self.name = number_and_name(fd)
        """The kernel's number of it, and its name."""
        self._jump = jump
        self._program = program
        self._open = False

    def open(self) -> None:
        """From now on frames take it, on every link that has it; does nothing when it is open. Raises OSError."""
        if not self._open:  # the kernel would patch its code again
            key, value = ctypes.c_uint32(0), ctypes.c_uint32(self._program)
            _expect(lib.bpf_update_elem(self._jump, ctypes.byref(key), ctypes.byref(value), 0))
            self._open = True

    def shut(self) -> None:
        """From now on frames take the filter. Raises OSError."""
        self._open = False
        with ignored(errno.ENOENT):
            _expect(lib.bpf_delete_elem(self._jump, ctypes.byref(ctypes.c_uint32(0))))

    def close(self) -> None:
        """Lets go of it. Links that have it keep it, shut."""
        os.close(self._jump)
        os.close(self.fd)


def offered() -> bool:
    """Whether the kernel has tcx: it can say what the loopback has there. Raises OSError."""
    try:
        _programs(_LOOPBACK)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def read(ifindex: int, name: str = SHORTCUT) -> tuple[int, ...]:
    """The kernel's numbers of our programs of that name at the link's hook: those that former agents left, too. Raises
    OSError."""
    with ignored(*_GONE):
        return tuple(number for number in _programs(ifindex) if _name_of(number) == name)
    return ()


def attach(ifindex: int, shortcut: Shortcut) -> None:
    """Puts it before all other programs at the link's hook, or in the place of one that a former agent left there.

    Takes 10 to 30 ms, in which the kernel changes no other link; in the place of another, microseconds. Succeeds when
    the link does not exist. Raises OSError.
    """
    found = read(ifindex, shortcut.name)
    left = [number for number in found if number != shortcut.number]
    with ignored(*_GONE):
        if shortcut.number not in found and not left:
            put_first(ifindex, shortcut.fd)
        elif shortcut.number not in found:
            with _opened(left.pop()) as replaced:
                _attach(ifindex, shortcut.fd, _F_REPLACE, replaced)
    _remove(ifindex, left)


def put_first(ifindex: int, program: int) -> None:
    """Puts any program (an open descriptor) before all others at the link's hook. Raises OSError."""
    _attach(ifindex, program, _F_BEFORE)


def detach(ifindex: int, name: str = SHORTCUT) -> None:
    """Removes our programs of that name from the link's hook, as slowly as attaching; succeeds when there are none, or
    no such link. Raises OSError."""
    _remove(ifindex, read(ifindex, name))


def remove(ifindex: int, number: int) -> None:
    """Removes one program from the link's hook; succeeds when it is not there, or no such link. Raises OSError."""
    _remove(ifindex, [number])


def _remove(ifindex: int, numbers: Iterable[int]) -> None:
    for number in numbers:
        with ignored(*_GONE), _opened(number) as program:
            _expect(lib.bpf_prog_detach2(program, ifindex, _TCX_INGRESS))


def _attach(ifindex: int, program: int, flags: int, replaced: int = 0) -> None:
    options = ctypes.create_string_buffer(_OPTIONS.pack(_OPTIONS.size, flags, replaced), _OPTIONS.size)
    _expect(lib.bpf_prog_attach_opts(program, ifindex, _TCX_INGRESS, options))


def _programs(ifindex: int) -> list[int]:
    """The kernel's numbers of all programs at the link's hook, in their order."""
    numbers, count = (ctypes.c_uint32 * _MOST_PROGRAMS)(), ctypes.c_uint32(_MOST_PROGRAMS)
    _expect(lib.bpf_prog_query(ifindex, _TCX_INGRESS, 0, None, numbers, ctypes.byref(count)))
    return numbers[: count.value]


@lru_cache(maxsize=256)
def _name_of(number: int) -> str:
    """Empty for a program that does not exist any more. The kernel gives a number again only after two billion."""
    with ignored(*_GONE), _opened(number) as program:
        return number_and_name(program)[1]
    return ""


def number_and_name(program: int) -> tuple[int, str]:
    """The kernel's number of a program (an open descriptor), and its name. Raises OSError."""
    info, size = ctypes.create_string_buffer(_PROGRAM_INFO.size), ctypes.c_uint32(_PROGRAM_INFO.size)
    _expect(lib.bpf_obj_get_info(program, info, ctypes.byref(size)))
    number, name = _PROGRAM_INFO.unpack(info.raw)
    return number, name.rstrip(b"\0").decode()


@contextmanager
def _opened(number: int) -> Iterator[int]:
    """A descriptor of the program that has this number."""
    program = lib.bpf_prog_get_fd_by_id(number)
    _expect(min(program, 0))
    try:
        yield program
    finally:
        os.close(program)


def _expect(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
