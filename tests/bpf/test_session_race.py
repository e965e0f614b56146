"""Two chains, two CPUs, one small session table: whatever the kernel does with the memory of a session that another CPU
holds, no frame of one chain reaches the other.

CPU 1 closes and opens one session of chain A over and over, and opens new sessions in chain B, with replies. CPU 0
sends on that same session of chain A. Before each run, `HEADER` makes another frame of the one that was given.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.packet import Raw

from sfc.chain import Side
from tests.bpf.frames import ether
from tests.bpf.node import Node, test_run

UP, DOWN = Side.UPSTREAM, Side.DOWNSTREAM
A, B = 7, 8
CAPACITY = 1024
SECONDS = 10
"""With the table as it was before sessions began anew in place, some tens of frames went astray in this time."""
REPEAT = 10_000
ON_A, ON_BOTH = 100, 200
"""Marks: what `HEADER` makes of a frame."""
HEADER = r"""
#define LINK_SLOT(skb) ({ \
	unsigned int slot_ = (skb)->mark, *count_ = (void *)(long)(skb)->data + 60; \
	unsigned int *source_ = (void *)(long)(skb)->data + 26; \
	unsigned char *flags_ = (void *)(long)(skb)->data + 47; \
	if ((void *)(count_ + 1) <= (void *)(long)(skb)->data_end) { \
		unsigned int kind_ = ++*count_ & 7, *target_ = source_ + 1, *ports_ = source_ + 2; \
		if (slot_ == 100) { /* an acknowledgement on A's session, from one of two senders */ \
			*source_ = 0x01000001; *flags_ = 0x10; slot_ = 1 + (*count_ & 1); \
		} else if (kind_ < 2) { /* RST or SYN on A's session */ \
			*source_ = 0x01000001; *target_ = 0x0100010a; *ports_ = 0x50000010; \
			*flags_ = kind_ ? 2 : 4; slot_ = 3; \
		} else if (kind_ == 2) { /* a new session of B */ \
			*source_ = *count_ >> 3; *target_ = 0x0100010a; *ports_ = 0x50000010; \
			*flags_ = 0x10; slot_ = 5; \
		} else { /* replies in it */ \
			*target_ = *count_ >> 3; *source_ = 0x0100010a; *ports_ = 0x00105000; \
			*flags_ = 0x10; slot_ = 31; \
		} \
	} \
	slot_; })
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU alone has no race")
def test_no_frame_of_one_chain_reaches_another_while_sessions_are_removed_and_begin_anew(
    bpffs: Path, tmp_path: Path
) -> None:
    header = tmp_path / "race.h"
    header.write_text(HEADER)
    node = Node(bpffs / "race", CAPACITY, cflags=["-include", str(header)])
    try:
        node.serve(UP, (1, 2, 3), connection=A)
        node.serve(DOWN, (11,), connection=A)
        node.serve(UP, (5, 6), connection=B)
        node.serve(DOWN, (31,), connection=B)

        _on_two_cpus(node, time.monotonic() + SECONDS)

        sent = node.tally().sent
    finally:
        node.close()
    assert sent[5] > REPEAT
    assert {slot: sent[slot] for slot in (1, 2, 3, 6)} == {1: 0, 2: 0, 3: 0, 6: 0}


def _on_two_cpus(node: Node, until: float) -> None:
    def load(cpu: int, mark: int) -> None:
        os.sched_setaffinity(threading.get_native_id(), {cpu})
        count = 0
        while time.monotonic() < until:
            test_run(node.datapath.program_fd, mark, _frame(count), repeat=REPEAT)
            count = (count + REPEAT) & 0xFFFFFF

    first, second, *_ = sorted(os.sched_getaffinity(0))
    threads = [threading.Thread(target=load, args=arguments) for arguments in ((first, ON_A), (second, ON_BOTH))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _frame(count: int) -> bytes:
    tcp = IP(src="0.0.0.0", dst="10.1.0.1") / TCP(sport=4096, dport=80, flags="A")
    return bytes(ether(UP) / tcp / Raw(bytes(6) + struct.pack("<I", count) + b"xxxx"))
