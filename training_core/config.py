"""The base of every configuration: frozen, strict, documented beside its fields, hashable by content."""

import difflib
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Self, TypeGuard, get_args

import pydantic
from pydantic import BaseModel, ConfigDict

from training_core.addresses import shown, without_secrets
from training_core.errors import ConfigError


class Config(BaseModel):
    """A frozen, validated value. An unknown key is an error; a field's docstring is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="strings")

    @classmethod
    def parse(cls, data: Mapping[str, Any], where: str) -> Self:
        """Validate `data`; `where` names its origin (a file, an option) in the error.

        Raises:
            ConfigError: one line naming the key, what was got and what was expected.
        """
        try:
            return cls.model_validate(data)
        except pydantic.ValidationError as error:
            raise ConfigError(f"{where}: {explain(error, cls)}") from None

    def to_json(self) -> str:
        """Canonical JSON: keys sorted, no spaces, the same text for the same value."""
        return canonical_json(json.loads(self.model_dump_json()))  # which spells NaN as text; model_dump does not

    def content_hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def explain(error: pydantic.ValidationError, model: type[BaseModel]) -> str:
    """A validation error as one line a person can act on, without the passwords and tokens of addresses."""
    parts: list[str] = []
    for item in error.errors(include_url=False):
        given = shown(item["input"])
        key = ".".join(str(step) for step in item["loc"]) or "(top level)"
        if item["type"] == "extra_forbidden":
            known = _known_keys(model, item["loc"][:-1])
            nearest = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
            parts.append(f"unknown key '{key}'; known keys here: {', '.join(known)}{hint}")
        elif item["type"] in {"tuple_type", "list_type"}:
            parts.append(f"'{key}' is {given!r}: it must be a list, such as [{given}]")
        elif item["type"] == "missing":
            parts.append(f"'{key}' is missing; it is required")
        else:
            message = item["msg"].removeprefix("Value error, ")
            parts.append(f"'{key}' is {given!r}: {message[0].lower()}{message[1:]}")
    return without_secrets("; ".join(parts))


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the model found by following `path` from `model`; those of `model` when it leads elsewhere."""
    found = model
    for step in path:
        field = found.model_fields.get(str(step))
        if field is None and isinstance(step, int):
            continue  # the place in a list whose members `found` is
        nested = [part for part in (field.annotation, *get_args(field.annotation)) if _is_model(part)] if field else []
        if not nested:
            break
        found = nested[0]
    return list(found.model_fields)


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
