"""The base of every configuration: frozen, strict, documented beside its fields, hashable by content."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict

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


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping, read without running anything in it.

    Raises:
        ConfigError: the file cannot be read, is not YAML, repeats a key, or is not a mapping.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read {path}: {reason}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds {type(data).__name__}, expected keys and values such as `name: …`")
    return data


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """`["training.epochs=20", "seed=1"]` as a nested mapping; values are read as YAML.

    Raises:
        ConfigError: an override is not of the form `key.path=value`.
    """
    merged_overrides: dict[str, Any] = {}
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not all(path.split(".")):
            raise ConfigError(f"--set {override!r}: expected key.path=value, for example training.epochs=20")
        try:
            nested: Any = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {override!r}: {text!r} is not a YAML value") from None
        for key in reversed(path.split(".")):
            nested = {key: nested}
        merged_overrides = merged(merged_overrides, nested)
    return merged_overrides


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` on top; mappings are merged key by key, anything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def explain(error: pydantic.ValidationError, model: type[BaseModel]) -> str:
    """A validation error as one line a person can act on."""
    parts: list[str] = []
    for item in error.errors(include_url=False):
        key = ".".join(str(step) for step in item["loc"]) or "(top level)"
        if item["type"] == "extra_forbidden":
            parts.append(f"unknown key '{key}'; known keys here: {', '.join(_known_keys(model, item['loc'][:-1]))}")
        elif item["type"] == "missing":
            parts.append(f"'{key}' is missing; it is required")
        else:
            message = item["msg"].removeprefix("Value error, ")
            parts.append(f"'{key}' is {item['input']!r}: {message[0].lower()}{message[1:]}")
    return "; ".join(parts)


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the model found by following `path` from `model`; those of `model` when it leads elsewhere."""
    found = model
    for step in path:
        field = found.model_fields.get(str(step))
        nested = field.annotation if field else None
        if not (isinstance(nested, type) and issubclass(nested, BaseModel)):
            break
        found = nested
    return list(found.model_fields)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, which YAML would settle silently in favour of the last."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    loader.flatten_mapping(node)
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key is not a plain word", key_node.start_mark)
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is written twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
