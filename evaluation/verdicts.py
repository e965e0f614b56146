"""Compares results with their targets, and gives the reason for each that is missed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Content = Mapping[str, Any]
"""An experiment's result: the JSON that its benchmark wrote."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure and its target."""

    figure: str
    found: str
    target: str
    met: bool
    why: str
    """Why the target is missed. It has a text when the target is met, too."""


def verdicts(content: Content) -> Iterator[Verdict]:
    """The verdicts on a result of any benchmark."""
    yield from _ratios(content)
    yield from _reactions(content)
    yield from _losses(content)
    yield from _ends(content)


def _ratios(content: Content) -> Iterator[Verdict]:
    for name, target in content.get("targets", {}).items():
        why = REASONS.get(name, _spread)
        yield Verdict(name, f"{content['ratios'][name]:.3f}", target, name not in content["missed"], why(content))


def _reactions(content: Content) -> Iterator[Verdict]:
    for name, found in content.get("p99_ms", {}).items():
        yield Verdict(
            f"{name}, our own part, ms at the 99th percentile",
            f"{found:.2f}",
            f"≤ {content['target_ms']:g}",
            name not in content["missed"],
            f"the median is {content['median_ms'][name]:.2f} ms. Slower reactions wait for a CPU: at that moment the "
            "kubelet, the container runtime and the API server work on the same event, on the same CPUs.",
        )


def _losses(content: Content) -> Iterator[Verdict]:
    for name in ("lost", "broken"):
        if name in content.get("totals", {}):
            found = content["totals"][name]
            yield Verdict(f"{name} in all announced events", f"{found:,}", "0", found == 0, "see the events below.")


def _ends(content: Content) -> Iterator[Verdict]:
    """The unannounced ends during which an agent ran."""
    for end in content.get("unannounced", {}).get("ends", ()):
        if "no agent" in end["kind"] or "on purpose" in end["kind"]:
            continue
        took = end["reaction_ms"]
        yield Verdict(
            f"{end['kind']}: ms from the first signal to out of the targets",
            "no word" if took is None else f"{took:.1f}",
            "≤ 50",
            took is not None and took <= 50,
            "the agent waited for a CPU that was busy with 20,000 datagrams a second.",
        )


def _spread(_: Content) -> str:
    return "see the quartiles below, and the load in the table."


def _tcp_of_veth(content: Content) -> str:
    spread = content["spread"]["tcp.ours/veth"]
    return (
        f"the target lies within the spread of the rounds ({spread['low']:.2f} … {spread['high']:.2f}): the median "
        "falls on either side of it from run to run."
    )


def _tcp_of_bridge(content: Content) -> str:
    spread = content["spread"]
    bridge = spread["tcp.ours/veth"]["median"] / spread["tcp.ours/bridge"]["median"]
    return (
        f"over one hop, in segments of 64 KB, the bridge itself reaches {bridge:.2f} of a direct veth pair, so there "
        f"is little to win. Over three hops ours is at {spread['tcp3.ours/bridge']['median']:.2f} of it."
    )


def _packets_of_veth(content: Content) -> str:
    bare = content["spread"]["pps.ours/redirect_peer"]["median"]
    return (
        "the kernel's call of a classifier and the second pass through its receive path cost the rest. Any program of "
        f"this kind pays for them: ours is at {bare:.2f} of a program of two instructions that only redirects."
    )


REASONS: Mapping[str, Callable[[Content], str]] = {
    "tcp.ours/veth": _tcp_of_veth,
    "tcp.ours/bridge": _tcp_of_bridge,
    "pps.ours/veth": _packets_of_veth,
    "ours/floor": lambda _: "where the kernel places a program's code moves the ratio by some hundredths.",
    "cold, 1,000 × 16, s": lambda _: (
        "it is the work of one CPU, at the machine's speed of the moment, and the making of 1,250 lookup tables is "
        "more than half of it."
    ),
}
"""By figure: the cause, as far as experiments have shown it."""
