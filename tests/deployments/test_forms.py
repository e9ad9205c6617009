"""The form that a person fills in: what matters first, nothing deep, and whatever the flow takes is let through."""

from collections.abc import Mapping
from typing import Any

import pytest
from prefect import Flow
from prefect.utilities.schema_tools.hydration import HydrationContext, hydrate
from prefect.utilities.schema_tools.validation import is_valid

from deployments.catalogue import catalogue
from deployments.environments import Environment
from deployments.forms import form_schema
from training_core.campaigns.run_config import RunConfig

FLOWS = {spec.name: spec.flow() for spec in catalogue(Environment.named("local", {}), "/store")}


def sections(described: Mapping[str, Any]) -> list[str]:
    """The definitions that a property refers to."""
    parts = [described, *described.get("anyOf", ()), *described.get("allOf", ())]
    return [part["$ref"].rpartition("/")[2] for part in parts if "$ref" in part]


@pytest.mark.parametrize("name", FLOWS)
def test_a_form_is_two_levels_deep(name: str) -> None:
    schema = form_schema(FLOWS[name])
    definitions = schema["definitions"]
    for parameter in schema["properties"].values():
        for section in sections(parameter):
            for described in definitions[section]["properties"].values():
                for inner in sections(described):
                    assert not any(sections(deep) for deep in definitions[inner].get("properties", {}).values())


def test_what_a_person_sets_comes_first_and_sections_leave_the_preset_alone() -> None:
    schema = form_schema(FLOWS["train"])
    fields = schema["definitions"]["RunConfig"]["properties"]
    by_position = sorted(fields, key=lambda name: fields[name]["position"])
    assert by_position[:3] == ["dataset", "preset", "seed"]
    assert by_position.index("budget") < by_position.index("executor") < by_position.index("tabular_mlp")
    assert fields["bags"]["type"] == "object"
    assert "default" not in fields["bags"]  # it would be sent with the form, and outweigh the preset
    assert set(fields) == set(RunConfig.model_fields)


@pytest.mark.parametrize(
    "run",
    [
        {"dataset": "shoes"},
        {"dataset": "shoes", "preset": "best", "bags": {"num_bags": 3}, "learners": {"include": ["linear"]}},
        {"dataset": "shoes", "budget": {"seconds": 60.0}, "tabular_mlp": {"width": 64}},
    ],
)
def test_what_the_flow_takes_is_let_through(run: dict[str, Any]) -> None:
    train: Flow[..., Any] = FLOWS["train"]
    parameters = {"run": run, "store": "/store"}
    hydrated = hydrate(parameters, HydrationContext())
    assert is_valid(hydrated, form_schema(train))
    RunConfig.model_validate(run)


def test_a_field_that_is_none_is_refused() -> None:
    assert not is_valid({"run": {"dataset": "shoes", "bugdet": 3}}, form_schema(FLOWS["train"]))
