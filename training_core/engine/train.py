"""Training learners on rows of data, from raw samples to something that answers: alone, or together with their like.

Nets of one architecture train together where that is quicker (`engine.cohort`); everything else trains alone.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from training_core.data.views import RowSource
from training_core.engine.alone import Trained, train_alone
from training_core.engine.cohort.grouping import Unit, share_out, why_it_trains_alone
from training_core.engine.cohort.training import Stack, open_stack
from training_core.engine.hooks import OnEpoch
from training_core.engine.loop import History
from training_core.engine.prepare import LearnerRequest, PreparedLearner, prepare
from training_core.engine.trained import TrainedLearner
from training_core.engine.training import TrainingConfig
from training_core.engine.updates.memory import release_memory
from training_core.engine.watching.profiling import Watch
from training_core.errors import DeadlineError
from training_core.learners import LearnerConfig
from training_core.schema import DataSpec

Outcome = Trained | Exception
"""What came of a learner, or why nothing did."""
OnStart = Callable[[Sequence[int]], Path | None]
"""Told which requests, by their positions, begin to train together; answers where their checkpoints go, if anywhere."""
Admit = Callable[[Sequence[int]], bool]
"""Asked whether there is time to train these requests, by their positions, together."""

_log = logging.getLogger(__name__)


def train_learner(
    config: LearnerConfig,
    train: RowSource,
    validation: RowSource | None,
    spec: DataSpec,
    features: Mapping[str, tuple[int, ...]],
    training: TrainingConfig,
    seed: int,
    on_epoch: OnEpoch | None = None,
    device: str = "cpu",
) -> tuple[TrainedLearner, History]:
    """Train one learner, alone; the same arguments give the same bits. What they mean: see `LearnerRequest`.

    The encoding is learned from the training rows alone. Rows that have none of the modalities are left out. A net's
    rows need not fit into memory; an estimator is given all of its own at once.

    Returns:
        The learner, on `device`, and what its training did.

    Raises:
        DataError: no training row has any of the modalities.
        ConfigError: the learner does not take this kind of data.
        DivergenceError: a loss, a weight or a prediction stopped being finite.
    """
    request = LearnerRequest(config, train, validation, spec, features, training, seed, on_epoch)
    trained = train_alone(prepare(request), device)
    return trained.learner, trained.history


def train_learners(requests: Sequence[LearnerRequest], device: str = "cpu") -> list[Outcome]:
    """Train learners, together where that pays; what came of each, in order. One that fails costs itself only."""
    outcomes: dict[int, Outcome] = {}
    for done in train_in_units(requests, device):
        outcomes |= done
    return [outcomes[position] for position in range(len(requests))]


def train_in_units(
    requests: Sequence[LearnerRequest],
    device: str = "cpu",
    on_start: OnStart | None = None,
    watch: Watch | None = None,
    admit: Admit = lambda positions: True,
) -> Iterator[dict[int, Outcome]]:
    """Train learners in units, each a single one or a stack, and give what came of each unit as soon as it is there.

    Nets that may share an architecture are looked at together, so that a unit is known before it begins. The same
    requests give the same units on one machine, whatever is free on it at the time.

    Args:
        requests: what to train.
        device: where to train nets.
        on_start: told of every unit before it begins.
        watch: measures the trainings of nets, by the labels of their requests.
        admit: asked before a unit is trained. Where there is no time for all of a unit, those of its members are
            trained alone that there is time for.

    Yields:
        What came of the members of a unit, by their positions in `requests`; `DeadlineError` of those there was no
        time for.
    """
    for company in _likely_companies(requests):
        positions = [position for position in company if admit((position,))]
        if late := [position for position in company if position not in positions]:
            yield _too_late(late)
        prepared, failed = _prepare_all(requests, positions)
        if failed:
            yield failed
        for unit in share_out(prepared, device):
            stack = _open(unit, prepared, device) if admit(unit.members) else "there is no time to train it with others"
            if isinstance(stack, Stack):
                folder = None if on_start is None else on_start(unit.members)
                yield _train_stack(stack, unit, prepared, device, folder, watch)
                continue
            for position in unit.members:
                if not admit((position,)):
                    yield _too_late((position,))
                    continue
                folder = None if on_start is None else on_start((position,))
                yield {position: _train_one(prepared[position], stack, device, folder, watch)}


def _too_late(positions: Sequence[int]) -> dict[int, Outcome]:
    """What comes of requests that there is no time for."""
    return {position: DeadlineError("there was not enough time left to train it") for position in positions}


def _likely_companies(requests: Sequence[LearnerRequest]) -> list[list[int]]:
    """Positions of requests that might train together; those that cannot are by themselves."""
    companies: dict[object, list[int]] = {}
    for position, request in enumerate(requests):
        alone = why_it_trains_alone(request) is not None
        companies.setdefault(position if alone else request.likely_architecture, []).append(position)
    return list(companies.values())


def _prepare_all(
    requests: Sequence[LearnerRequest], positions: Sequence[int]
) -> tuple[dict[int, PreparedLearner], dict[int, Outcome]]:
    """Those that can be prepared, and why the others cannot."""
    prepared: dict[int, PreparedLearner] = {}
    failed: dict[int, Outcome] = {}
    for position in positions:
        try:
            prepared[position] = prepare(requests[position])
        except Exception as error:
            failed[position] = error
    return prepared, failed


def _open(unit: Unit, prepared: Mapping[int, PreparedLearner], device: str) -> Stack | str:
    """The members of a unit as a stack, or why each of them trains alone."""
    if len(unit.members) == 1:
        return unit.why_alone
    try:
        return open_stack([prepared[position] for position in unit.members], device)
    except Exception as error:  # whatever is wrong with one of them shows when it trains alone
        _log.warning("%d learners cannot train together: %s", len(unit.members), error)
        return f"together they failed ({type(error).__name__})"


def _train_stack(
    stack: Stack,
    unit: Unit,
    prepared: Mapping[int, PreparedLearner],
    device: str,
    folder: Path | None,
    watch: Watch | None,
) -> dict[int, Outcome]:
    """Train a stack; should that fail as a whole, its members one by one."""
    try:
        return dict(zip(unit.members, stack.train(device, folder, watch), strict=True))
    except Exception as error:
        _log.warning("a stack of %d learners failed, they train one by one: %s", len(unit.members), error)
        reason = f"together they failed ({type(error).__name__})"
    release_memory()  # what the stack took, for those who train now
    return {position: _train_one(prepared[position], reason, device, None, watch) for position in unit.members}


def _train_one(member: PreparedLearner, reason: str, device: str, folder: Path | None, watch: Watch | None) -> Outcome:
    """Train one learner alone, for this reason."""
    try:
        trained = train_alone(member, device, folder, watch)
    except Exception as error:
        return error
    _log.info("%s trained alone: %s", member.request.name, reason)
    return trained._replace(trained_as=f"alone: {reason}")
