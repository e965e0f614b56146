"""Pods as they are found in clusters: each file of tests/unit/pods is a pod and what becomes of it.

`python -m tests.unit.test_webhook_golden` writes the outcomes anew; the difference is then to be read, not trusted.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
import yaml

from sfc.validation import parse
from tests.unit import objects
from webhook.model import Request
from webhook.mutate import pod
from webhook.replica import hook_for
from webhook.review import review

KEY = b"drain key of the tests, 32 bytes"
FILES = sorted((Path(__file__).parent / "pods").glob("*.yaml"))


def chain(slices: int | None) -> dict[str, Any]:
    obj = objects.chain()
    if slices:
        obj["spec"]["stages"][2]["interfaces"][1]["sourcePorts"] = {"slices": slices}
    return obj


def outcome(case: dict[str, Any]) -> dict[str, Any]:
    """Through the envelope, so that the patch is what is tested, applied to the pod as it came."""

    def decide(request: Request) -> Any:
        chains = {("telco", "edge"): parse(chain(case.get("slices")))}
        mode = hook_for(case.get("namespaceLabels", {}))
        return pod(request, lambda *key: chains.get(key), mode, KEY)

    request = {"uid": "u-1", "operation": "CREATE", "namespace": "telco", "object": case["pod"]}
    envelope = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    response = json.loads(review(json.dumps(envelope).encode(), decide).body)["response"]
    if not response["allowed"]:
        return {"denied": response["status"]["message"]}
    patch = base64.b64decode(response.get("patch", "W10=")).decode()
    warnings = {"warnings": response["warnings"]} if "warnings" in response else {}
    return {"becomes": jsonpatch.apply_patch(case["pod"], patch), **warnings}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_pod_becomes(path: Path) -> None:
    case = yaml.safe_load(path.read_text())

    result = outcome(case)

    assert {key: case[key] for key in ("denied", "becomes", "warnings") if key in case} == result


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_second_pass_changes_nothing(path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    once = outcome(case)

    twice = outcome({**case, "pod": once.get("becomes", case["pod"])})

    assert twice == once


if __name__ == "__main__":
    for path in FILES:
        case = yaml.safe_load(path.read_text())
        kept = {key: case[key] for key in ("about", "namespaceLabels", "slices", "pod") if key in case}
        path.write_text(yaml.safe_dump(kept | outcome(kept), sort_keys=False, width=120))
