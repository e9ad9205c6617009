"""Settings as people write them: YAML files, `key.path=value` overrides, and one laid over the other."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from training_core.errors import ConfigError


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

    Only an asterisk begins no alias, there being nothing that it could stand for, but a text: `monitor=*/5 * * * *`.

    Raises:
        ConfigError: an override is not of the form `key.path=value`.
    """
    merged_overrides: dict[str, Any] = {}
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not all(path.split(".")):
            raise ConfigError(f"--set {override!r}: expected key.path=value, for example training.epochs=20")
        try:
            nested: Any = text if text.startswith("*") else yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {override!r}: {text!r} is not a YAML value") from None
        for key in reversed(path.split(".")):
            nested = {key: nested}
        merged_overrides = merged(merged_overrides, nested)
    return merged_overrides


def origin_of(steps: Sequence[int | str], overrides: Iterable[str], otherwise: str) -> str:
    """Who set the value at the path `steps`: the last override that touches it, as it was written, or `otherwise`."""
    path = tuple(str(step) for step in steps)
    found = otherwise
    for override in overrides:
        key = tuple(override.partition("=")[0].split("."))
        if path and (path[: len(key)] == key or key[: len(path)] == path):
            found = f"--set {override}"
    return found


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` on top; mappings are merged key by key, anything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, which YAML would settle silently in favour of the last."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *anchor`; a key of one's own may stand over a merged one
            continue
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key is not a plain word", key_node.start_mark)
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is written twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
