"""docs/operations.md has every condition, reason and event of the code.

They are found in the code, so that none can be forgotten: a string of one CamelCase word is one, unless OTHERS has it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs/operations.md").read_text()
ROOMS = ("sfc", "kube", "certs", "serving", "webhook", "controller")
WORD = re.compile(r"[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]*)*")

KINDS = {
    "AdmissionReview", "ConfigMap", "CronJob", "CrossConnection", "DaemonSet", "DeleteOptions", "Deployment", "Event",
    "Job", "Lease", "List", "MutatingWebhookConfiguration", "Namespace", "NetworkAttachmentDefinition", "Node", "Pod",
    "ReplicaSet", "ReplicationController", "Rollout", "Secret", "ServiceFunctionChain", "StatefulSet",
    "SubjectAccessReview", "TokenReview", "ValidatingWebhookConfiguration",
}  # fmt: skip
OF_KUBERNETES = {
    "Always", "Complete", "ContainersReady", "DoesNotExist", "Exists", "Failed", "In", "Normal", "NotIn", "OnDelete",
    "Opaque", "PreferSameNode", "Succeeded", "True", "Warning",
}  # fmt: skip
"""Values of fields that Kubernetes has, and conditions that it sets."""
OF_HTTP = {"Accept", "Authorization", "Bearer", "BearerToken", "Connection"}
OF_API_ERRORS = {"NoAnswer", "NoConfiguration", "Unknown", "Unreadable"}
"""Reasons of `kube.api.ApiError`, which are in the log beside a sentence."""
OTHERS = KINDS | OF_KUBERNETES | OF_HTTP | OF_API_ERRORS


def said(source: str) -> set[str]:
    """The conditions, reasons and events in a file."""
    strings = (
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    return {text for text in strings if WORD.fullmatch(text)} - OTHERS


def all_said() -> dict[str, str]:
    """By each word: a file that has it."""
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return {word: str(path.relative_to(ROOT)) for path in files for word in said(path.read_text())}


def rows(document: str) -> Iterator[list[str]]:
    """The cells of each row of each table, headings included."""
    for line in document.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def test_a_new_word_of_the_code_is_found_wherever_it_stands() -> None:
    source = (
        'MADE = "StageMade"\n\ndef f():\n    """Ready."""\n    yield Event("StageGone", f"{x} is Gone", kind="Pod")\n'
    )

    assert said(source) == {"StageMade", "StageGone"}


def explained(document: str) -> set[str]:
    """The words in the first cells of tables whose last column is the remedy and has one."""
    found: set[str] = set()
    remedies = False
    for line in document.splitlines():
        if not line.startswith("|"):
            remedies = False
            continue
        cells = next(rows(line))
        if not remedies and cells[-1] != "remedy":
            continue
        remedies = True
        if cells[-1]:
            found |= set(re.findall(r"\w+", cells[0]))
    return found


def test_every_condition_reason_and_event_is_in_the_operations_document_with_its_remedy() -> None:
    missing = {word: file for word, file in all_said().items() if word not in explained(DOCUMENT)}

    assert missing == {}, "docs/operations.md lacks these; if one is no condition, reason or event, add it to OTHERS"


def metrics() -> set[str]:
    """The names in the code; counters are shown with the ending `_total`."""
    found = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text())):
                if isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant):
                    kind = ast.unparse(call.func)
                    if re.match(r"(Counter|Gauge|Histogram|Summary)\b|\w+MetricFamily", kind):
                        name = str(call.args[0].value).removesuffix("_total")
                        found.add(name + "_total" * kind.startswith("Counter"))
    return found


def test_every_metric_is_in_the_operations_document() -> None:
    names = metrics()

    assert "sfc_link_packets_total" in names
    assert {name for name in names if f"`{name}`" not in DOCUMENT and f"`{name}{{" not in DOCUMENT} == set()


def test_a_row_without_a_remedy_explains_nothing() -> None:
    made, gone = "| reason | remedy |\n|---|---|\n| `Made` | wait |\n| `Gone` | |", "| word | meaning |\n| `Word` | x |"
    document = f"{made}\n\n{gone}"

    assert {"Made", "Gone", "Word"} & explained(document) == {"Made"}


def test_others_names_nothing_that_the_document_explains() -> None:
    reasons = {word for row in rows(DOCUMENT) for word in re.findall(r"`(\w+)`", row[0])}

    assert OTHERS & reasons == set()
