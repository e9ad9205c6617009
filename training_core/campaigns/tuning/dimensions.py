"""What is searched, field by field, and how a trial's values along such fields make a run, or a file to train from."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml

from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning.config import ParamValue
from training_core.config import Config, canonical_json, explain
from training_core.engine.updates.schedules import training_schedule
from training_core.errors import ConfigError
from training_core.learners import LearnerConfig
from training_core.variants import kinds

KIND_PREFIX = "learners.include."
"""`learners.include.KIND` is a dimension of its own for every kind: whether it may be chosen."""

_ROUNDS = 3  # setting a field may change the default of another one, which then has to be set, too


class Condition(Config):
    """A dimension exists only while one of some others has one of some values."""

    paths: tuple[str, ...]
    """The others, one or several; they come earlier in the space."""
    values: tuple[ParamValue, ...]

    def holds(self, params: Mapping[str, ParamValue]) -> bool:
        """Whether it holds beside the values chosen so far."""
        return any(path in params and params[path] in self.values for path in self.paths)


class Dimension(Config):
    """One field that is searched."""

    path: str
    """The field, from the run's configuration on: `training.lr`. `learners.include.KIND` says whether a kind may be
    chosen."""
    kind: Literal["float", "int", "choice"]
    low: int | float | None = None
    """Of a float or int; included."""
    high: int | float | None = None
    """Of a float or int; included."""
    log: bool = False
    """Of a float or int: whether equal ratios are equally far apart."""
    step: int | float | None = None
    """Distance between values; None: any number."""
    choices: tuple[ParamValue, ...] = ()
    """Of a choice. A field that holds a tuple has them as JSON text."""
    when: tuple[Condition, ...] = ()
    """All of them must hold."""

    def is_active(self, params: Mapping[str, ParamValue]) -> bool:
        """Whether it exists beside the values chosen so far."""
        return all(condition.holds(params) for condition in self.when)

    @property
    def ends(self) -> tuple[ParamValue, ...]:
        """Its choices, or its lowest and highest value."""
        return self.choices or (self.low, self.high)

    def nearest(self, value: ParamValue) -> ParamValue:
        """`value` if the dimension has it, else its nearest one; of choices the first, of no number the middle."""
        if self.kind == "choice":
            return value if value in self.choices else self.choices[0]
        assert self.low is not None and self.high is not None, "numbers have ends"
        if not isinstance(value, int | float):
            value = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        if self.step is not None:
            value = self.low + self.step * round((value - self.low) / self.step)
        value = min(max(value, self.low), self.high)
        return round(value) if self.kind == "int" else float(value)


def choose(space: Sequence[Dimension], pick: Callable[[Dimension], ParamValue]) -> dict[str, ParamValue]:
    """`pick` a value for every dimension that exists beside the values picked before it."""
    params: dict[str, ParamValue] = {}
    for dimension in space:
        if dimension.is_active(params):
            params[dimension.path] = pick(dimension)
    return params


def params_of(run: RunConfig, space: Sequence[Dimension]) -> dict[str, ParamValue]:
    """The values `run` has now along `space`; the nearest ones where it lies outside."""
    return choose(space, lambda dimension: dimension.nearest(param_at(run, dimension.path)))


def with_params(run: RunConfig, params: Mapping[str, ParamValue]) -> RunConfig:
    """`run` with a trial's values.

    Raises:
        ConfigError: a field is unknown, or the values do not go together; the message names the field.
    """
    data = run.model_dump()
    left_out = {path.removeprefix(KIND_PREFIX) for path, value in params.items() if _is_kind(path) and not value}
    if left_out:
        data["learners"]["include"] = tuple(kind for kind in included_kinds(run) if kind not in left_out)
        if not data["learners"]["include"]:
            raise ConfigError("'learners.include' would leave out every kind of learner; keep one")
    for path, value in params.items():
        if _is_kind(path):
            continue
        *sections, name = path.split(".")
        place: Any = data
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict) or name not in place:
            raise ConfigError(
                f"there is no field '{path}' in a run; a trial's values are named as the space names them"
            )
        place[name] = as_value(run, path, value)
    try:
        changed = RunConfig.model_validate(data)
    except pydantic.ValidationError as error:
        raise ConfigError(explain(error, RunConfig)) from None
    training_schedule(changed.training, num_batches=1)  # what a schedule needs, no field can know by itself
    return changed


def run_yaml(run: RunConfig, params: Mapping[str, ParamValue], note: str = "") -> str:
    """A RUN.yaml that trains `run` with a trial's values, without searching again.

    It names only what differs from the defaults of the run's preset, and reads back as exactly that run.

    Args:
        run: what was tuned.
        params: the values.
        note: stands at the top, as a comment.

    Raises:
        ConfigError: as `with_params`.
    """
    dataset = run.dataset if not run.dataset.endswith((".yaml", ".yml")) else str(Path(run.dataset).resolve())
    left_out = {"dataset": dataset, "tune": False, "tuning": type(run.tuning)()}
    tuned = with_params(run, params).model_copy(update=left_out)
    data: dict[str, Any] = {"dataset": dataset, "preset": run.preset}
    wanted = tuned.model_dump(mode="json")
    for _ in range(_ROUNDS):
        _lay_differences(data, wanted, RunConfig.model_validate(data).model_dump(mode="json"))
    if run.preset == RunConfig.model_fields["preset"].default:
        del data["preset"]
    heading = "".join(f"# {line}\n" for line in note.splitlines())
    return heading + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def included_kinds(run: RunConfig) -> tuple[str, ...]:
    """The kinds of learner a run may choose from, those named or all."""
    return run.learners.include or kinds(LearnerConfig)


def param_at(run: RunConfig, path: str) -> ParamValue:
    """What `run` has at `path`, as a trial says it."""
    if _is_kind(path):
        return path.removeprefix(KIND_PREFIX) in included_kinds(run)
    return as_param(value_at(run, path))


def value_at(run: RunConfig, path: str) -> Any:
    """What `run` has at `path`, as it is."""
    value: Any = run
    for name in path.split("."):
        value = getattr(value, name)
    return value


def as_param(value: Any) -> ParamValue:
    """A field's value as a trial says it: tuples as JSON text."""
    return canonical_json(value) if isinstance(value, tuple | list) else value


def as_value(run: RunConfig, path: str, param: ParamValue) -> Any:
    """A trial's value as the field at `path` has it.

    Raises:
        ConfigError: the field holds a tuple, and `param` is not JSON text of one.
    """
    if not isinstance(value_at(run, path), tuple) or not isinstance(param, str):
        return param
    try:
        return tuple(json.loads(param))
    except (ValueError, TypeError):
        raise ConfigError(f"'{path}' is {param!r}: it must be a list, such as [{param}]") from None


def _is_kind(path: str) -> bool:
    return path.startswith(KIND_PREFIX)


def _lay_differences(data: dict[str, Any], wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Write into `data` what of `wanted` is `found` to be otherwise, section by section."""
    for name, value in wanted.items():
        if value == found[name]:
            continue
        if isinstance(value, Mapping) and isinstance(found[name], Mapping) and value.keys() == found[name].keys():
            _lay_differences(data.setdefault(name, {}), value, found[name])
        else:
            data[name] = value
