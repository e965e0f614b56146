"""JSON schemas for kubeconform, from an API server's OpenAPI document and from CustomResourceDefinitions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Json = dict[str, Any]

LOCATION = "{{ .ResourceKind }}{{ .KindSuffix }}.json"
_DEFINITIONS = "definitions.json"
_INT_OR_STRING = {"oneOf": [{"type": "string"}, {"type": "integer"}]}


def write(folder: Path, swagger: Mapping[str, Any], crds: Iterable[Json]) -> None:
    """Writes a file for each kind; `swagger` is the API server's /openapi/v2."""
    definitions = {name: strict(schema) for name, schema in swagger["definitions"].items()}
    (folder / _DEFINITIONS).write_text(json.dumps({"definitions": definitions}))
    for name, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            place = folder / _file(kind["group"], kind["version"], kind["kind"])
            place.write_text(json.dumps({"$ref": f"{_DEFINITIONS}#/definitions/{name}"}))
    for crd in crds:
        spec = crd["spec"]
        for version in spec["versions"]:
            place = folder / _file(spec["group"], version["name"], spec["names"]["kind"])
            place.write_text(json.dumps(strict(version["schema"]["openAPIV3Schema"])))


def strict(schema: Json) -> Json:
    """The same schema, but unknown fields are errors, as for `kubectl apply --validate=strict`."""
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        return _INT_OR_STRING
    made = dict(schema)
    if properties := schema.get("properties"):
        made["properties"] = {name: strict(value) for name, value in properties.items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for place in ("items", "additionalProperties"):
        if isinstance(schema.get(place), dict):
            made[place] = strict(schema[place])
    return made


def _file(group: str, version: str, kind: str) -> str:
    """The name that kubeconform makes from LOCATION."""
    suffix = "-".join(part for part in (group.partition(".")[0], version) if part)
    return f"{kind}-{suffix}.json".lower()
