"""What ADD, DEL and CHECK do: addresses from the IPAM plugin, a veth pair with them, our filter on its host end.

Only what the webhook signed is added.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from controller.node.cni.answer import CniError, Code, add_result
from controller.node.cni.attachment import Addition, Attachment
from controller.node.cni.drain_ids import DrainIds
from controller.node.cni.ipam import delegate, release, with_result
from controller.node.cni.slots import Slots
from controller.node.cni.statements import Statements
from controller.node.kernel.errors import LinkError, NameTakenError
from controller.node.kernel.links import Identity, Links
from sfc import threads

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the node has what an ADD needs."""

    ipam: Path
    """The IPAM plugins."""
    statement_keys: Path
    """The public keys of the webhook."""


class PodWiring:
    """Carries out CNI calls on the node's links.

    program: returns the descriptor of the loaded tc program; called at every ADD.
    program_name: as `tc filter show` prints it.
    folders: where the node has what an ADD needs.
    on_change: called after links have come or gone; must be cheap.
    held: returns how many links each namespace has; called at every ADD.
    mtu: returns the MTU of an interface whose chain says none; None leaves it to the kernel.
    """

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        links: Links,
        program: Callable[[], int],
        program_name: str,
        folders: Folders,
        on_change: Callable[[], None],
        held: Callable[[], Mapping[str, int]] = dict,
        mtu: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._links = links
        self._statements = Statements(folders.statement_keys)
        self._program = program
        self._program_name = program_name
        self._ipam = folders.ipam
        self._on_change = on_change
        self._slots = Slots(lambda: (link.slot for link in links.list()), held)
        self._drain_ids = DrainIds(links.list)
        self._mtu = mtu

    def add(self, addition: Addition) -> dict[str, Any]:
        """Makes the link, and returns the CNI result. Replaces what an earlier ADD of the attachment left behind.

        Raises CniError, NOT_SIGNED before anything is made. Then nothing is left: no link, no slot taken, no address
        held.
        """
        start = time.monotonic()
        attachment, netns = addition.attachment, addition.netns
        pod, name, ipam = attachment.pod, attachment.host_name, attachment.ipam
        self._statements.check(addition)
        with (
            _refusals_as_cni_errors(attachment),
            _taken_name_as_cni_error(addition),
            self._drain_ids.claim(addition.drain_id, pod.uid),
            self._slots.take(pod.namespace) as slot,
            ExitStack() as undo,
            threads.pool(1, "ipam") as meanwhile,  # starting a program takes as long as making the link
        ):
            delegated = meanwhile.submit(delegate, ipam, self._ipam)
            undo.callback(release, ipam, self._ipam)
            undo.callback(self._links.delete, name)
            identity = Identity(
                pod.uid, attachment.interface_name, addition.drain_id, slot, addition.chain, addition.stage
            )
            wanted = addition.interface
            if wanted.mtu is None:
                wanted = replace(wanted, mtu=self._mtu())
            host = self._links.create(name, identity, wanted, netns)
            self._links.attach(host.ifindex, slot, self._program(), self._program_name)
            given = delegated.result()
            interface = with_result(addition.interface, given)
            self._links.configure(interface, netns, addition.source_ports)
            undo.pop_all()
        self._on_change()
        log.info(
            "interface wired",
            extra={
                "pod": str(pod),
                "chain": addition.chain,
                "stage": addition.stage,
                "interface": interface.name,
                "link": name,
                "slot": slot,
                "milliseconds": round((time.monotonic() - start) * 1000, 1),
            },
        )
        return add_result(addition, host.mac, interface, given)

    def delete(self, attachment: Attachment) -> None:
        """Removes the link and releases its addresses; succeeds when neither exists. Raises CniError."""
        with threads.pool(1, "ipam") as meanwhile:
            released = meanwhile.submit(delegate, attachment.ipam, self._ipam)
            with _refusals_as_cni_errors(attachment):
                self._links.delete(attachment.host_name)
            released.result()
        self._on_change()
        log.info(
            "interface removed",
            extra={
                "pod": str(attachment.pod),
                "interface": attachment.interface_name,
                "link": attachment.host_name,
            },
        )

    def check(self, addition: Addition) -> None:
        """Raises CniError: CHECK_FAILED with all that is not as `add` made it, or the IPAM plugin's own refusal."""
        attachment = addition.attachment
        with _refusals_as_cni_errors(attachment):
            problems = self._links.verify(
                attachment.host_name, addition.interface, addition.netns, addition.source_ports
            )
        if problems:
            raise CniError(
                Code.CHECK_FAILED,
                f"interface {attachment.interface_name!r} of pod {attachment.pod} is not as ADD made it: "
                f"{'; '.join(problems)}: delete the pod, so that a new one replaces it",
            )
        delegate(attachment.ipam, self._ipam)


@contextmanager
def _refusals_as_cni_errors(attachment: Attachment) -> Iterator[None]:
    try:
        yield
    except LinkError as error:
        raise CniError(
            Code.KERNEL_REFUSED, f"interface {attachment.interface_name!r} of pod {attachment.pod}: {error}"
        ) from error


@contextmanager
def _taken_name_as_cni_error(addition: Addition) -> Iterator[None]:
    try:
        yield
    except NameTakenError as error:
        raise CniError(
            Code.INTERFACE_TAKEN,
            f"pod {addition.attachment.pod} already has an interface {addition.interface.name!r}: "
            f"give the interface of stage {addition.stage!r} in chain {addition.chain!r} another name",
        ) from error
