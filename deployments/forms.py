"""The form that the Prefect UI shows of a flow's parameters: short, with what a person sets first.

Prefect draws a form from the schema of a flow's parameters and draws all of it, section in section. Here the plain
values of a parameter come first, then the few sections that people do fill in; every other section is a field for
JSON. The flow itself still checks whatever comes in against the full schema.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from training_core.config import Config

if TYPE_CHECKING:
    from prefect import Flow

_ADVANCED = ("keep_learners_of", "executor", "cluster", "profile", "force")
"""Plain values that few people set: after the others."""
_OPEN = ("budget", "rule")
"""Sections whose fields are drawn; the others are a field for JSON."""


def form_schema(flow: "Flow[..., Any]") -> dict[str, Any]:
    """The OpenAPI schema of a flow's parameters, as its deployment keeps it.

    Args:
        flow: whose parameters are plain values or a `Config`.

    Returns:
        A JSON-able mapping: Prefect's own schema of the flow, with the sections put in order and cut off.
    """
    from prefect.utilities.callables import parameter_schema

    schema = json.loads(parameter_schema(flow).model_dump_json())
    definitions = schema.get("definitions", {})
    for kind in get_type_hints(flow.fn).values():
        if isinstance(kind, type) and issubclass(kind, Config) and kind.__name__ in definitions:
            definitions[kind.__name__]["properties"] = _in_order(kind, definitions)
    schema["definitions"] = _reached(schema["properties"], definitions)
    return schema


def _in_order(kind: type[Config], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of a parameter, each with its position."""
    own = set(kind.__annotations__)
    found: Mapping[str, Any] = definitions[kind.__name__]["properties"]
    placed = sorted(found, key=lambda name: (_rank(name, found[name], own), list(found).index(name)))
    return {
        name: {**_shown(name, found[name], definitions), "position": position} for position, name in enumerate(placed)
    }


def _rank(name: str, described: Mapping[str, Any], own: set[str]) -> int:
    if _section(described) is None:
        return 2 if name in _ADVANCED else 0
    return 1 if name in _OPEN else 3 if name in own else 4


def _shown(name: str, described: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A property as the form has it: a field for JSON has no default, since what is given outweighs a preset."""
    section = _section(described)
    if section is None or name in _OPEN:
        return dict(described)
    said = described.get("description") or definitions[section].get("description", "")
    return {
        "type": "object",
        "title": described.get("title", name.replace("_", " ").capitalize()),
        "description": said.partition("\n")[0],
    }


def _section(described: Mapping[str, Any]) -> str | None:
    """The definition that a property refers to; None for a plain value."""
    refers = [described, *described.get("allOf", ()), *described.get("anyOf", ())]
    return next((one["$ref"].rpartition("/")[2] for one in refers if "$ref" in one), None)


def _reached(properties: Any, definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The definitions that are still referred to."""
    reached: dict[str, Any] = {}
    waiting = [properties]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name and name not in reached:
                reached[name] = definitions[name]
                waiting.append(definitions[name])
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return reached
