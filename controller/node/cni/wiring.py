"""What ADD, DEL and CHECK do: addresses from the IPAM plugin, a veth pair with them, our filter on its host end."""

from __future__ import annotations

import json
import logging
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from controller.node.cni import call as cni
from controller.node.cni.call import CniError, Code, Request
from controller.node.kernel.errors import LinkError, NameTakenError
from controller.node.kernel.links import Identity, Links
from controller.node.plane.model import SLOTS
from sfc.chain import Interface

log = logging.getLogger(__name__)

IPAM_SECONDS = 30.0
"""Less than the CNI plugin waits for us, so that the caller hears what was slow."""


class Slots:
    """Hands out slots in turn, so that a slot rests as long as possible before the next link gets it.

    What is in use is read from the links once per lap around all the slots, and starts at a random slot: an agent
    that was just restarted does not know which ones rested.
    """

    def __init__(self, in_use: Callable[[], Iterable[int]]) -> None:
        self._in_use = in_use
        self._lock = threading.Lock()
        self._pending: set[int] = set()
        self._last = secrets.randbelow(SLOTS)
        self._lap: Iterator[int] = iter(())

    @contextmanager
    def take(self) -> Iterator[int]:
        """A free slot, kept from others until the block ends; by then a link carries it, or it is free again."""
        with self._lock:
            slot = self._last = self._next()
            self._pending.add(slot)
        try:
            yield slot
        finally:
            with self._lock:
                self._pending.discard(slot)

    def _next(self) -> int:
        slot = next(self._lap, None)
        if slot is None:
            self._lap = self._free()
            slot = next(self._lap, None)
        if slot is None:
            raise CniError(
                Code.NO_SLOT_LEFT,
                f"all {SLOTS - 1} data links of this node are in use: spread the chain's pods over more nodes",
            )
        return slot

    def _free(self) -> Iterator[int]:
        used = self._pending | set(self._in_use())
        lap = chain(range(self._last + 1, SLOTS), range(1, self._last + 1))
        return iter([slot for slot in lap if slot not in used])


class PodWiring:
    """Carries out CNI requests on the node's links.

    program: descriptor of the loaded tc program, asked for at every ADD; program_name as `tc filter show` prints it.
    on_change: called after links have come or gone; must be cheap.
    """

    def __init__(
        self, links: Links, program: Callable[[], int], program_name: str, on_change: Callable[[], None]
    ) -> None:
        self._links = links
        self._program = program
        self._program_name = program_name
        self._on_change = on_change
        self._slots = Slots(lambda: (link.slot for link in links.list()))

    def add(self, request: Request) -> dict[str, Any]:
        start = time.monotonic()
        pod, name = request.netns, request.host_name
        with (
            _refusals_as_cni_errors(request),
            self._slots.take() as slot,
            ExitStack() as undo,
            ThreadPoolExecutor(1, "ipam") as meanwhile,  # starting a program takes as long as making the link
        ):
            answer = meanwhile.submit(_delegate, request)
            undo.callback(_release, request)
            undo.callback(self._links.delete, name)
            identity = Identity(request.pod.uid, request.interface.name, request.drain_id, slot)
            host = self._links.create(name, identity, request.interface, pod)
            self._links.attach(host.ifindex, slot, self._program(), self._program_name)
            ipam = answer.result()
            interface = _with_ipam(request.interface, ipam)
            self._links.configure(interface, pod, request.source_ports)
            undo.pop_all()
        self._on_change()
        log.info(
            "interface wired",
            extra={
                "pod": str(request.pod),
                "chain": request.chain,
                "stage": request.stage,
                "interface": interface.name,
                "link": name,
                "slot": slot,
                "milliseconds": round((time.monotonic() - start) * 1000, 1),
            },
        )
        return cni.result(request, host.mac, interface, ipam)

    def delete(self, request: Request) -> None:
        with ThreadPoolExecutor(1, "ipam") as meanwhile:
            released = meanwhile.submit(_delegate, request)
            with _refusals_as_cni_errors(request):
                self._links.delete(request.host_name)
            released.result()
        self._on_change()
        log.info(
            "interface removed",
            extra={"pod": str(request.pod), "interface": request.interface.name, "link": request.host_name},
        )

    def check(self, request: Request) -> None:
        with _refusals_as_cni_errors(request):
            problems = self._links.verify(request.host_name, request.interface, request.netns, request.source_ports)
        if problems:
            raise CniError(
                Code.CHECK_FAILED,
                f"interface {request.interface.name!r} of pod {request.pod} is not as it was made: "
                f"{'; '.join(problems)}: delete the pod, to have it made anew",
            )
        _delegate(request)


def _with_ipam(interface: Interface, ipam: Mapping[str, Any]) -> Interface:
    """Addresses are the IPAM plugin's; its routes come before the chain's."""
    routes = tuple(cni.route_of(f"IPAM result: routes[{i}]", r) for i, r in enumerate(ipam.get("routes") or ()))
    addresses = cni.addresses_of("IPAM result: ips", (ip.get("address") for ip in ipam.get("ips") or ()))
    return replace(interface, addresses=addresses, routes=routes + interface.routes)


def _release(request: Request) -> None:
    """Rolls an IPAM ADD back. If that fails too, the first failure is the one to report; the caller's DEL follows."""
    call = request.call
    deletion = replace(call, environment={**call.environment, "CNI_COMMAND": "DEL"})
    with suppress(CniError):
        _delegate(replace(request, call=deletion))


def _delegate(request: Request) -> dict[str, Any]:
    """Runs the IPAM plugin, if the request has one, with the call as it came; returns its result."""
    environment = request.call.environment
    if request.ipam is None:
        return {}
    program = _program(request.ipam, environment.get("CNI_PATH", ""))
    if program is None:
        if request.call.command == "DEL":  # what is not installed holds nothing, and must not hold the pod
            return {}
        raise CniError(
            Code.IPAM_FAILED,
            f"IPAM plugin {request.ipam!r} is not in CNI_PATH {environment.get('CNI_PATH', '')!r}: install it there",
        )
    try:
        done = subprocess.run(
            [program],
            input=request.call.configuration,
            env={**environment},
            capture_output=True,
            timeout=IPAM_SECONDS,
            check=False,
        )
    except OSError as error:
        raise CniError(Code.IPAM_FAILED, f"IPAM plugin {str(program)!r} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise CniError(
            Code.TRY_AGAIN, f"IPAM plugin {request.ipam!r} took longer than {IPAM_SECONDS:.0f} s: see what it waits for"
        ) from error
    return _ipam_result(request, done)


def _program(name: str, path: str) -> Path | None:
    candidates = (Path(folder) / name for folder in path.split(":") if folder)
    return next((program for program in candidates if program.is_file()), None)


def _ipam_result(request: Request, done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    try:
        output = json.loads(done.stdout or b"{}")
        if done.returncode == 0:
            return dict(output)
        code, message, details = int(output["code"]), output["msg"], output.get("details", "")
    except (ValueError, KeyError, TypeError) as error:
        raise CniError(
            Code.IPAM_FAILED,
            f"IPAM plugin {request.ipam!r} ended with status {done.returncode} and no CNI answer",
            (done.stderr or done.stdout).decode(errors="replace")[-1024:],
        ) from error
    raise CniError(code, f"IPAM plugin {request.ipam!r}: {message}", details)


@contextmanager
def _refusals_as_cni_errors(request: Request) -> Iterator[None]:
    try:
        yield
    except NameTakenError as error:
        raise CniError(
            Code.INTERFACE_TAKEN,
            f"pod {request.pod} already has an interface {request.interface.name!r}: "
            f"give the interface of stage {request.stage!r} in chain {request.chain!r} another name",
        ) from error
    except LinkError as error:
        raise CniError(
            Code.KERNEL_REFUSED, f"interface {request.interface.name!r} of pod {request.pod}: {error}"
        ) from error
