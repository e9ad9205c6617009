"""Families of configurations told apart by their `kind`: the type is the registry, this module reads it."""

from collections.abc import Mapping
from typing import Any, get_args

from training_core.config import Config
from training_core.errors import ConfigError


def members(union: Any) -> tuple[type[Config], ...]:
    """The classes of `Annotated[A | B | …, Field(discriminator="kind")]`, in the order they are written."""
    inner, *_ = get_args(union)
    return tuple(get_args(inner)) or (inner,)


def kind_of(member: type[Config]) -> str:
    """The `kind` a member is chosen by."""
    return str(member.model_fields["kind"].default)


def kinds(union: Any) -> tuple[str, ...]:
    """The `kind` of every member, in the order they are written."""
    return tuple(kind_of(member) for member in members(union))


def parse_variant(union: Any, data: Mapping[str, Any], where: str) -> Any:
    """The member of `union` that `data["kind"]` names, validated.

    Raises:
        ConfigError: the kind is unknown (the known ones are listed) or a field does not validate.
    """
    kind = data.get("kind")
    for member in members(union):
        if kind_of(member) == kind:
            return member.parse(data, where)
    raise ConfigError(f"{where}: unknown kind {kind!r}; choose one of {', '.join(kinds(union))}")
