"""One field of what others hand us as JSON: its value, checked, or a CniError with field, value and remedy."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TypeVar

from controller.node.cni.answer import CniError, Code
from sfc.chain import Route

T = TypeVar("T")


def field(obj: Any, path: str, kind: type[T], default: T, where: str = "") -> T:
    """The value at a dotted path below `obj`; `default` when any step is absent or null.

    `where` is the place of `obj` itself. Raises CniError for a value of another kind than `kind`.
    """
    value = obj
    for i, key in enumerate(path.split(".")):
        if not isinstance(value, dict):
            raise invalid(".".join((where, *path.split(".")[:i])).strip("."), value, "give an object")
        value = value.get(key)
        if value is None:
            return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise invalid(".".join((where, path)).strip("."), value, f"give a value of type {kind.__name__}")
    return value


def route_of(where: str, obj: Any) -> Route:
    """A route as CNI writes it. `where` is its place. Raises CniError."""
    route = Route(dst=field(obj, "dst", str, "", where), gw=field(obj, "gw", str, "", where) or None)
    try:
        version = ipaddress.ip_network(route.dst).version
    except ValueError as error:
        raise invalid(f"{where}.dst", route.dst, "give a prefix such as 10.2.0.0/16, host bits zero") from error
    if route.gw is not None and _address_version(route.gw) != version:
        raise invalid(f"{where}.gw", route.gw, f"give an IPv{version} address without prefix, or leave it out")
    return route


def addresses_of(where: str, values: Iterable[Any]) -> tuple[str, ...]:
    """Addresses with prefix. `where` is the place of their list. Raises CniError."""
    return tuple(_address(f"{where}[{i}]", value) for i, value in enumerate(values))


def _address(where: str, value: Any) -> str:
    if isinstance(value, str) and "/" in value:
        with suppress(ValueError):
            ipaddress.ip_interface(value)
            return value
    raise invalid(where, value, "give an address with prefix, such as 10.1.0.2/24")


def _address_version(address: str) -> int | None:
    try:
        return ipaddress.ip_address(address).version
    except ValueError:
        return None


def invalid(where: str, value: object, remedy: str) -> CniError:
    """The refusal of a field's value."""
    return CniError(Code.INVALID_CONFIGURATION, f"{where} is {json.dumps(value)[:128]}: {remedy}")
