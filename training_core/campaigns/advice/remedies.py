"""What mends what: from a diagnosis to changes of the run's settings, and to the settings changed.

Each remedy is small enough to be tried at once, and says why. Several runs may be needed: diagnose the next one too.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from training_core.campaigns.run_config import RunConfig
from training_core.config import Config
from training_core.evaluation.diagnostics import Diagnosis, Problem
from training_core.objectives.denoising import DenoisingConfig
from training_core.settings import merged

SAFE_LR = 1e-3
"""A learning rate every net here trains with."""
DENOISING_SHARE = 0.25
"""Of the training loss: what denoising is brought down to where it dominates."""


class Change(Config):
    """One setting that is to be changed."""

    key: str
    """Its path, as `--set` takes it: `training.lr`."""
    before: Any
    after: Any
    why: str

    def spelled(self) -> str:
        """`training.lr: 0.1 -> 0.01`."""
        return f"{self.key}: {_spell(self.before)} -> {_spell(self.after)}"


class Advice(Config):
    """A diagnosis and what mends it."""

    diagnosis: Diagnosis
    changes: tuple[Change, ...]
    """Empty where an earlier diagnosis already changed all that would be changed."""


def advise(run: RunConfig, diagnoses: Iterable[Diagnosis]) -> tuple[Advice, ...]:
    """What to change for each diagnosis, in their order. A setting is changed once, by the first that asks for it."""
    given: list[Advice] = []
    changed: set[str] = set()
    for diagnosis in diagnoses:
        changes = [c for c in _REMEDIES[diagnosis.problem](run, diagnosis) if c.key not in changed]
        changes = [change for change in changes if change.before != change.after]
        changed |= {change.key for change in changes}
        given.append(Advice(diagnosis=diagnosis, changes=tuple(changes)))
    return tuple(given)


def suggest_config(run: RunConfig, diagnoses: Iterable[Diagnosis]) -> RunConfig:
    """The settings with everything changed that `advise` says; `run` itself when nothing is wrong."""
    return apply_changes(run, [change for advice in advise(run, diagnoses) for change in advice.changes])


def apply_changes(run: RunConfig, changes: Sequence[Change]) -> RunConfig:
    """The settings with these changes.

    Raises:
        ConfigError: changed like this they contradict one another.
    """
    if not changes:
        return run
    data = run.model_dump(mode="json", exclude_unset=True)
    for change in changes:
        nested = change.after
        for step in reversed(change.key.split(".")):
            nested = {step: nested}
        data = merged(data, nested)
    return RunConfig.parse(data, "the suggested run")


def _change(run: RunConfig, key: str, after: Any, why: str) -> Change:
    before: Any = run
    for step in key.split("."):
        before = getattr(before, step)
    return Change(key=key, before=before, after=after, why=why)


def _calm(run: RunConfig, diagnosis: Diagnosis) -> Iterator[Change]:
    """Diverged: a learning rate known to be safe, gradients clipped, and arithmetic that cannot overflow."""
    training = run.training
    yield _change(run, "training.lr", min(training.lr / 10, SAFE_LR), "steps were too long to stay finite")
    if not 0 < training.clip_norm <= 1.0:
        yield _change(run, "training.clip_norm", 1.0, "a single wild batch can no longer throw the weights off")
    if training.precision == "fp16":
        yield _change(run, "training.precision", "float32", "fp16 overflows at 65504")


def _steady(run: RunConfig, diagnosis: Diagnosis) -> Iterator[Change]:
    """Unstable: shorter steps, most of all in the beginning."""
    training = run.training
    yield _change(run, "training.lr", max(training.lr / 10, min(training.lr, SAFE_LR)), "shorter steps jitter less")
    if not 0 < training.clip_norm <= 0.5:
        yield _change(run, "training.clip_norm", 0.5, "rare large gradients set the training back")
    if not training.warmup_epochs:
        yield _change(run, "training.warmup_epochs", min(5.0, training.epochs / 10), "the first steps are the wildest")


def _smaller(run: RunConfig, diagnosis: Diagnosis) -> Iterator[Change]:
    """Memory: smaller batches whose gradients are summed, so that the steps stay what they are; fewer at a time."""
    training = run.training
    batch_size = max(8, training.batch_size // 4)
    if batch_size < training.batch_size:
        steps = training.accumulation * max(1, round(training.batch_size / batch_size))
        yield _change(run, "training.batch_size", batch_size, "activations take memory in proportion to the batch")
        yield _change(run, "training.accumulation", steps, "a step still sees as many rows")
    yield _change(run, "training.gradient_checkpointing", True, "activations are computed again instead of kept")
    yield _change(run, "training.stacking", "never", "nets that train together hold their activations together")
    yield _change(run, "learners.strategy", "memory", "kinds of learner that take less are preferred")
    if "limit_bytes" not in diagnosis.figures:
        yield _change(run, "budget.workers", 1, "one process at a time has the machine's memory to itself")


def _quieter(run: RunConfig, diagnosis: Diagnosis) -> Iterator[Change]:
    """Denoising dominates: the weight at which it has `DENOISING_SHARE` of the loss, all else being equal."""
    share = min(diagnosis.figures["denoising_share"], 0.999)
    weight = run.denoising.weight * (DENOISING_SHARE / (1 - DENOISING_SHARE)) / (share / (1 - share))
    why = f"denoising gets about {DENOISING_SHARE:.0%} of the loss instead of {share:.0%}"
    yield _change(run, "denoising.weight", float(f"{weight:.2g}"), why)
    if run.denoising.stages:
        yield _change(run, "denoising.stages", (), "the stages' weights are replaced by the usual ones")


def _learnable(run: RunConfig, diagnosis: Diagnosis) -> Iterator[Change]:
    """Denoising stalls: only the objectives that are learned; none left: no denoising."""
    left = tuple(name for name in run.denoising.objectives if name not in diagnosis.objectives)
    if left:
        yield _change(run, "denoising.objectives", left, f"{', '.join(diagnosis.objectives)} taught the nets nothing")
        if run.denoising.stages:
            yield _change(run, "denoising.stages", (), "the stages name objectives that are gone")
    else:
        yield _change(run, "denoising.enabled", False, "no objective was learned: modalities tell nothing of another")


def _regularised(run: RunConfig, diagnosis: Diagnosis) -> Iterator[Change]:
    """Overfitting: stop when it begins, and make it harder."""
    training = run.training
    if not training.validation_fraction:
        yield _change(run, "training.validation_fraction", 0.2, "training stops, and goes back, when it gets worse")
        yield _change(run, "training.patience", min(training.patience, 15), "this many worse epochs are no accident")
    else:
        yield _change(run, "training.patience", min(training.patience, 8), "it gets worse after the best epoch anyway")
    yield _change(run, "training.weight_decay", max(10 * training.weight_decay, 1e-3), "large weights are held down")
    kinds = {name.partition("/")[2].partition("#")[0] for name in diagnosis.learners}
    for kind in sorted(kinds):
        dropout = getattr(getattr(run, kind, None), "dropout", None)
        if dropout is not None and dropout < 0.5:
            yield _change(run, f"{kind}.dropout", min(0.5, max(0.3, 2 * dropout)), "units cannot rely on one another")


def _longer(run: RunConfig, diagnosis: Diagnosis) -> Iterator[Change]:
    yield _change(run, "training.epochs", 2 * run.training.epochs, "the loss was still falling when the epochs ran out")


def _without_noise(run: RunConfig, diagnosis: Diagnosis) -> Iterator[Change]:
    why = f"{', '.join(diagnosis.modalities)}: nothing to learn there, but by heart"
    yield _change(run, "modalities", diagnosis.kept, why)


def _balanced(run: RunConfig, diagnosis: Diagnosis) -> Iterator[Change]:
    """Poor cross-modal learning: a net leans on the modality that is learned first; make it do without, often.

    Wang, Tran and Feiszli 2020, arXiv:1905.12681, show why joint training can lose to a single modality.
    """
    dropout = run.training.modality_dropout
    yield _change(
        run, "training.modality_dropout", min(0.6, max(0.3, 2 * dropout)), "nets must answer with modalities missing"
    )
    yield _change(run, "denoising.enabled", True, "answers with and without a modality are pulled together")
    objectives = run.denoising.objectives
    if "consistency" not in objectives:
        yield _change(run, "denoising.objectives", (*objectives, "consistency"), "it is the objective that does so")


def _broader(run: RunConfig, diagnosis: Diagnosis) -> Iterator[Change]:
    """Poor generalisation: more learners that differ more, each less sure of itself.

    If rows belong together (a user, a day), naming `group` or `time` in SOURCE.yaml is the better remedy.
    """
    yield _change(run, "bags.num_bags", 2 * run.bags.num_bags, "learners of more parts of the data average out")
    if run.bags.sampling == "subsample":
        yield _change(run, "bags.row_fraction", min(run.bags.row_fraction, 0.632), "bags resemble one another less")
    yield _change(
        run, "training.weight_decay", max(10 * run.training.weight_decay, 1e-3), "large weights are held down"
    )


def _quicker(run: RunConfig, diagnosis: Diagnosis) -> Iterator[Change]:
    """Too slow: fewer, larger steps; quick kinds; and the limit as the budget, which is obeyed."""
    training = run.training
    over = diagnosis.figures["seconds"] / diagnosis.figures["limit_seconds"]
    if training.batch_size < 256:
        yield _change(run, "training.batch_size", min(256, 4 * training.batch_size), "fewer, larger steps per epoch")
    if over > 2:
        yield _change(run, "training.epochs", max(10, round(training.epochs / 2)), "half of the passes over the data")
        yield _change(run, "learners.learners_per_bag", 1, "one learner per bag")
    yield _change(run, "learners.strategy", "speed", "kinds of learner that are quicker are preferred")
    yield _change(run, "budget.seconds", diagnosis.figures["limit_seconds"], "what does not fit is not begun")


_REMEDIES: dict[Problem, Callable[[RunConfig, Diagnosis], Iterator[Change]]] = {
    "diverged": _calm,
    "memory": _smaller,
    "denoising_dominates": _quieter,
    "denoising_stalls": _learnable,
    "unstable": _steady,
    "overfitting": _regularised,
    "unfinished": _longer,
    "noise_modality": _without_noise,
    "poor_cross_modal": _balanced,
    "poor_generalisation": _broader,
    "slow": _quicker,
}


def without_denoising(run: RunConfig) -> RunConfig:
    """The run to compare with for the impact of denoising: the same bags and seeds, without it."""
    return run.model_copy(update={"denoising": DenoisingConfig()})


def _spell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
