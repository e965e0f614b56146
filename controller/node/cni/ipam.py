"""Delegation to an IPAM plugin: it runs with our own call as it came (CNI specification 1.0, section 4).

The plugin runs as root in the agent, and `ipam.type` may be a tenant's choice: anybody who may create a
NetworkAttachmentDefinition writes it. So `reading` lets only known plugins through, and they come from one folder that
the agent is configured with, whatever CNI_PATH the call has.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from controller.node.cni.answer import CniError, Code
from controller.node.cni.attachment import IpamPlugin
from controller.node.cni.fields import addresses_of, route_of
from sfc.chain import Interface

IPAM_SECONDS = 30.0
"""Less than the CNI plugin waits for the agent, so that the runtime learns which plugin was slow."""


def delegate(plugin: IpamPlugin | None, folder: Path) -> dict[str, Any]:
    """Runs the plugin, a file in `folder`, and returns its result; without a plugin, an empty one.

    A DEL succeeds when the plugin is not installed: it cannot hold an address, and must not hold the pod.
    Raises CniError: IPAM_FAILED, TRY_AGAIN after IPAM_SECONDS, or the code that the plugin answered.
    """
    if plugin is None:
        return {}
    program = folder / plugin.name
    if not program.is_file():
        if plugin.call.command == "DEL":
            return {}
        raise CniError(
            Code.IPAM_FAILED,
            f"IPAM plugin {plugin.name!r} is not in {str(folder)!r}: install it there, or start the agent with --ipam",
        )
    try:
        done = subprocess.run(
            [program],
            input=plugin.call.configuration,
            env={**plugin.call.environment},
            capture_output=True,
            timeout=IPAM_SECONDS,
            check=False,
        )
    except OSError as error:
        raise CniError(Code.IPAM_FAILED, f"IPAM plugin {str(program)!r} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise CniError(
            Code.TRY_AGAIN, f"IPAM plugin {plugin.name!r} took longer than {IPAM_SECONDS:.0f} s: see what it waits for"
        ) from error
    return _result(plugin.name, done)


def release(plugin: IpamPlugin | None, folder: Path) -> None:
    """Undoes an ADD of the plugin. Raises nothing if that fails too: the failure of the ADD is the one to report.

    The DEL by which the runtime cleans up after a failed ADD tries once more.
    """
    if plugin is None:
        return
    deletion = replace(plugin.call, environment={**plugin.call.environment, "CNI_COMMAND": "DEL"})
    with suppress(CniError):
        delegate(replace(plugin, call=deletion), folder)


def with_result(interface: Interface, result: Mapping[str, Any]) -> Interface:
    """The interface with the plugin's addresses, and the plugin's routes before the chain's.

    Raises CniError for an address or a route that the plugin should not have answered.
    """
    routes = tuple(route_of(f"IPAM result: routes[{i}]", r) for i, r in enumerate(result.get("routes") or ()))
    addresses = addresses_of("IPAM result: ips", (ip.get("address") for ip in result.get("ips") or ()))
    return replace(interface, addresses=addresses, routes=routes + interface.routes)


def _result(name: str, done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    try:
        output = json.loads(done.stdout or b"{}")
        if done.returncode == 0:
            return dict(output)
        code, message, details = int(output["code"]), output["msg"], output.get("details", "")
    except (ValueError, KeyError, TypeError) as error:
        raise CniError(
            Code.IPAM_FAILED,
            f"IPAM plugin {name!r} ended with status {done.returncode} and no CNI answer",
            (done.stderr or done.stdout).decode(errors="replace")[-1024:],
        ) from error
    raise CniError(code, f"IPAM plugin {name!r}: {message}", details)
