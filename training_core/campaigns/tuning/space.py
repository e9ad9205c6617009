"""The space a study searches, read from the fields of the configurations.

No list of what can be tuned exists anywhere: a field says beside itself over what it is worth searching
(`quantities.SearchRange` and its neighbours), `tuning.space` in the run may say otherwise, and the target says which
sections of the run are looked at.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning.config import ParamValue, TuningConfig
from training_core.campaigns.tuning.dimensions import (
    KIND_PREFIX,
    Condition,
    Dimension,
    as_param,
    as_value,
    choose,
    included_kinds,
    param_at,
    params_of,
    run_yaml,
    value_at,
    with_params,
)
from training_core.config import Config
from training_core.errors import ConfigError
from training_core.learners import LearnerBase, LearnerConfig
from training_core.quantities import SearchChoices, SearchOn, SearchRange, SearchWhen
from training_core.schema import DataSpec, patterns_to_judge
from training_core.selection.cost_model import predict_cost
from training_core.variants import kinds

__all__ = [
    "Condition",
    "Dimension",
    "choose",
    "curves_are_comparable",
    "params_of",
    "run_yaml",
    "space_of",
    "tuned_modalities",
    "with_params",
]

_CHANGES_THE_CURVE = frozenset({"training.loss", "training.class_weights", "training.validation_fraction"})

_NOMINAL_ROWS, _NOMINAL_EPOCHS = 1000, 30  # kinds are ranked by cost on so many; the order hardly depends on them


@dataclass(frozen=True)
class _Field:
    """A field of the run that could be searched: where it is, what it says of itself, and who reads it."""

    path: str
    info: FieldInfo
    readers: tuple[str, ...] | None = None
    """The kinds of learner that read it, of those the target may have; None: it matters whatever the kinds."""

    def said(self, what: type[Any]) -> list[Any]:
        """What it declares of that sort."""
        return [item for item in self.info.metadata if isinstance(item, what)]

    @property
    def number(self) -> Literal["float", "int"] | None:
        """Which sort of number it holds; None for anything else."""
        return _number(self.info.annotation)


def space_of(run: RunConfig, spec: DataSpec) -> tuple[Dimension, ...]:
    """What `run.tuning` searches on data of `spec`; a dimension comes after those its conditions name.

    A declared range is widened to hold the value that the run has now, so that the search can begin there, and declared
    values that do not go with the rest of the run are left out.

    Raises:
        ConfigError: the tuned learner cannot learn the data; `tuning.space` or `tuning.fields` names a field that does
            not exist or is not of the target, or a value that a field cannot have; or nothing is left to search.
    """
    spec = spec.select(tuned_modalities(run, spec))
    tuning = run.tuning
    stays, free = _kinds(run, spec)
    fields = {field.path: field for field in _fields_of(run, spec, (*stays, *free))}
    kind_paths = [KIND_PREFIX + kind for kind in free] if tuning.target == "ensemble" else []
    _check_names(tuning, [*fields, *kind_paths])
    space = {
        path: Dimension(path=path, kind="choice", choices=(False, True))
        for path in kind_paths
        if _is_searched(tuning, path)
    }
    for field in fields.values():
        conditions = _conditions(run, field, space) if _is_searched(tuning, field.path) else None
        if conditions is None:
            continue
        before = _prerequisites(conditions, space)
        dimension = _given(run, field, before)
        if dimension is None:
            dimension = _declared(run, field, spec, before)
        if dimension is not None:
            space[field.path] = dimension.model_copy(update={"when": conditions})
    if not space:
        raise ConfigError(f"tuning: nothing is left to search for {_target(tuning)}; name fields in `tuning.space`")
    return tuple(space.values())


def tuned_modalities(run: RunConfig, spec: DataSpec) -> tuple[str, ...]:
    """The modalities trials have: those of the run, or those of them that the tuned learner can take at once.

    Raises:
        ConfigError: the tuned learner cannot learn any of them; the message says why.
    """
    own = spec.select(run.modalities) if run.modalities else spec
    if run.tuning.target != "learner":
        return own.names
    learner = _learner(run, run.tuning.learner)
    takes = [modality.name for modality in own.modalities if modality.kind in learner.modality_kinds]
    taken = own.select(takes[: learner.max_modalities])
    if reason := learner.supports(taken if taken.modalities else own):
        raise ConfigError(f"tuning.learner: {run.tuning.learner} cannot learn {', '.join(own.names)}: {reason}")
    return taken.names


def curves_are_comparable(space: Sequence[Dimension]) -> bool:
    """Whether the validation losses of different trials mean the same, so that some may be ended by those of others."""
    return not any(dimension.path in _CHANGES_THE_CURVE for dimension in space)


def _kinds(run: RunConfig, spec: DataSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the kinds that every trial has, those that a trial may leave out), of those that can learn anything of `spec`.

    For every set of modalities a bag may have the quickest kind stays, so that no trial is without a learner for it.
    """
    if run.tuning.target != "ensemble":
        return ((run.tuning.learner,) if run.tuning.target == "learner" else ()), ()
    stays: list[str] = []
    able: set[str] = set()
    for pattern in patterns_to_judge(spec.names):
        own = spec.select(pattern)
        seconds = {
            kind: predict_cost(_learner(run, kind), own, _NOMINAL_ROWS, _NOMINAL_EPOCHS).seconds
            for kind in included_kinds(run)
            if _learner(run, kind).supports(own) is None
        }
        able.update(seconds)
        if seconds and not seconds.keys() & set(stays):
            stays.append(min(seconds, key=lambda kind: seconds[kind]))
    return tuple(stays), tuple(kind for kind in kinds(LearnerConfig) if kind in able and kind not in stays)


def _learner(run: RunConfig, kind: str) -> LearnerBase:
    return getattr(run, kind)


def _fields_of(run: RunConfig, spec: DataSpec, chosen: Sequence[str]) -> Iterator[_Field]:
    """Every field that the target reads with the kinds of learner in `chosen`, those others depend on first."""
    whole = run.tuning.target == "ensemble"
    learners = [kind for kind in kinds(LearnerConfig) if kind in chosen]
    nets = tuple(kind for kind in learners if _learner(run, kind).family == "net")
    latent = tuple(kind for kind in nets if _learner(run, kind).has_latents) if len(spec.modalities) > 1 else ()
    if whole:
        yield from _section(RunConfig, "bags", None)
        for field in _section(RunConfig, "learners", None):
            if field.path == "learners.net_copies":
                yield _Field(field.path, field.info, nets)
            elif f"{field.path}." != KIND_PREFIX:
                yield field
    for kind in learners:
        yield from _section(RunConfig, kind, (kind,))
    yield from _section(RunConfig, "training", nets)
    yield from _section(RunConfig, "denoising", latent)
    if whole or run.tuning.target == "combination":
        yield from _section(RunConfig, "combination", None)


def _section(owner: type[Config], name: str, readers: tuple[str, ...] | None, prefix: str = "") -> Iterator[_Field]:
    """The fields of one section and of those within it; none where nobody reads them."""
    section = owner.model_fields[name].annotation
    assert isinstance(section, type) and issubclass(section, Config), "sections of a run are configurations"
    for field_name, info in section.model_fields.items() if readers != () else ():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Config):
            yield from _section(section, field_name, readers, f"{prefix}{name}.")
        elif field_name != "kind":
            yield _Field(f"{prefix}{name}.{field_name}", info, readers)


def _is_searched(tuning: TuningConfig, path: str) -> bool:
    """Whether the run lets a field be searched: it is not taken out, and is among those named if any are."""
    if any(given is None and _is_under(path, key) for key, given in tuning.space.items()):
        return False
    return not tuning.fields or path in tuning.space or any(_is_under(path, key) for key in tuning.fields)


def _is_under(path: str, key: str) -> bool:
    return path == key or path.startswith(f"{key}.")


def _target(tuning: TuningConfig) -> str:
    return f"learner {tuning.learner}" if tuning.target == "learner" else f"target {tuning.target}"


def _check_names(tuning: TuningConfig, paths: Sequence[str]) -> None:
    """Refuse names that are neither fields of the target nor, where they may be, sections of it.

    Raises:
        ConfigError: the name, and the nearest one known.
    """
    sections = {".".join(path.split(".")[:depth]) for path in paths for depth in range(1, path.count(".") + 1)}
    for where, key, may_be_section in [
        *(("space", key, given is None) for key, given in tuning.space.items()),
        *(("fields", key, True) for key in tuning.fields),
    ]:
        if key in paths or (may_be_section and key in sections):
            continue
        if key in sections:
            raise ConfigError(f"tuning.space: '{key}' is a section; give ranges for its fields, such as `{key}.…`")
        nearest = difflib.get_close_matches(key, [*paths, *sections], n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"its sections are {', '.join(sorted(sections))}"
        raise ConfigError(f"tuning.{where}: {_target(tuning)} reads no field '{key}'; {hint}")


def _conditions(run: RunConfig, field: _Field, space: Mapping[str, Dimension]) -> tuple[Condition, ...] | None:
    """What must hold of earlier dimensions for a field to mean anything; None when it never does in this run."""
    found: list[Condition] = []
    if field.readers is not None:
        switches = tuple(KIND_PREFIX + kind for kind in field.readers)
        if not switches:
            return None
        if all(switch in space for switch in switches):  # else one of its readers is always there
            found.append(Condition(paths=switches, values=(True,)))
    section = field.path.rpartition(".")[0]
    for when in field.said(SearchWhen):
        other = f"{section}.{when.field}"
        if other not in space:
            if not _fits(value_at(run, other), when):
                return None
            continue
        values = tuple(param for param in space[other].choices if _fits(as_value(run, other, param), when))
        if not values:
            return None
        if len(values) < len(space[other].choices):
            found.append(Condition(paths=(other,), values=values))
    return tuple(found)


def _fits(value: Any, when: SearchWhen) -> bool:
    return any(item in when.values for item in value) if isinstance(value, tuple) else value in when.values


def _prerequisites(conditions: Sequence[Condition], space: Mapping[str, Dimension]) -> dict[str, ParamValue]:
    """Values of earlier dimensions with which the conditions hold."""
    needed: dict[str, ParamValue] = {}
    for condition in conditions:
        path = condition.paths[0]
        needed |= {**_prerequisites(space[path].when, space), path: condition.values[0]}
    return needed


def _given(run: RunConfig, field: _Field, before: Mapping[str, ParamValue]) -> Dimension | None:
    """The dimension that `tuning.space` describes for a field; None when it says nothing of it.

    Raises:
        ConfigError: the field cannot have a value of it, even where `before` holds.
    """
    given = run.tuning.space.get(field.path)
    if given is None:
        return None
    where = f"tuning.space.{field.path}"
    if given.choices:
        dimension = Dimension(path=field.path, kind="choice", choices=tuple(map(as_param, given.choices)))
    elif field.number is None:
        raise ConfigError(f"{where}: this field is not a number; say {{choices: […]}} instead of a range")
    else:
        try:
            dimension = _numbers(field, given.low or 0.0, given.high or 0.0, given.log, given.step)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
    values: list[ParamValue] = []
    for value in dimension.ends:
        try:  # 1e-4 is text in YAML: what counts is what the field makes of it
            values.append(param_at(with_params(run, {**before, field.path: value}), field.path))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    if not given.choices:
        return dimension
    try:
        return dimension.model_copy(update={"choices": SearchChoices(*values).values})
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _declared(run: RunConfig, field: _Field, spec: DataSpec, before: Mapping[str, ParamValue]) -> Dimension | None:
    """The dimension a field declares, with the run's own value in it; None when it declares none for such data.

    Declared values that the run cannot have, even where `before` holds, are left out: a warm-up as long as training.
    """
    if not all(_is_on(spec, on) for on in field.said(SearchOn)):
        return None
    now = param_at(run, field.path)
    for declared in field.said(SearchRange):
        dimension = _numbers(field, declared.low, declared.high, declared.log, declared.step)
        return _widened(dimension, now) if isinstance(now, int | float) else dimension
    for declared in field.said(SearchChoices):
        values = tuple(map(as_param, declared.values))
        possible = [value for value in values if value == now or _is_possible(run, {**before, field.path: value})]
        possible += [] if now in values else [now]
        if len(possible) > 1:
            return Dimension(path=field.path, kind="choice", choices=tuple(possible))
    return None


def _is_on(spec: DataSpec, on: SearchOn) -> bool:
    """Whether the data is such as a field needs."""
    if (on.tasks and spec.task.kind not in on.tasks) or (on.several_modalities and len(spec.modalities) < 2):
        return False
    return not on.modality_kinds or any(modality.kind in on.modality_kinds for modality in spec.modalities)


def _number(annotation: Any) -> Literal["float", "int"] | None:
    """Which sort of number a type is, or one that may be None; None for anything else."""
    if get_origin(annotation) is Annotated:
        return _number(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        held: set[Literal["float", "int"] | None] = {
            _number(part) for part in get_args(annotation) if part is not type(None)
        }
        return held.pop() if len(held) == 1 else None
    return "int" if annotation is int else "float" if annotation is float else None


def _numbers(field: _Field, low: float, high: float, log: bool, step: float | None) -> Dimension:
    """A range of the numbers a field holds.

    Raises:
        ValueError: it is empty, or of whole numbers and has broken ones.
    """
    kind = field.number
    assert kind is not None, "ranges are of numbers"
    if kind == "int" and any(value != int(value) for value in (low, high, step or 0)):
        raise ValueError(
            f"this field is a whole number; the range is from {low:g} to {high:g}, in steps of {step or 1:g}"
        )
    SearchRange(low, high, log, step)
    as_number = int if kind == "int" else float
    return Dimension(
        path=field.path,
        kind=kind,
        low=as_number(low),
        high=as_number(high),
        log=log,
        step=None if step is None else as_number(step),
    )


def _widened(dimension: Dimension, now: float) -> Dimension:
    """A range that holds `now` as well, evenly spaced where no other can."""
    if dimension.nearest(now) == now:
        return dimension
    assert dimension.low is not None and dimension.high is not None, "numbers have ends"
    return dimension.model_copy(
        update={
            "low": min(dimension.low, now),
            "high": max(dimension.high, now),
            "log": dimension.log and now > 0,
            "step": None,
        }
    )


def _is_possible(run: RunConfig, params: Mapping[str, ParamValue]) -> bool:
    try:
        with_params(run, params)
    except ConfigError:
        return False
    return True
