"""Are the gradients of a net healthy? Norms per parameter: vanishing, exploding, zero, not finite, and which."""

import logging
import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from training_core.engine.loop import Hook, TrainingState
from training_core.errors import ConfigError

_log = logging.getLogger(__name__)

_VANISHING_NORM = 1e-7  # below this a float32 weight of size 1 no longer moves at a learning rate of 1
_HISTORY = 10_000  # checks remembered one by one
_KINDS = ("exploding", "vanishing", "zero", "non_finite")
_LOWEST_DECADE, _HIGHEST_DECADE = -12, 6  # of the histogram; what lies outside is counted at its ends


@dataclass(frozen=True)
class GradientHealth:
    """The gradients of one update, before they are clipped. Norms are Euclidean, one per parameter."""

    max_norm: float
    """Largest of the norms that are finite; NaN when none is. So for the next two."""
    min_norm: float
    mean_norm: float
    has_exploding_gradients: bool
    """A norm is above the upper threshold, or not finite."""
    has_vanishing_gradients: bool
    """A norm is below the lower threshold. One that is 0 in theory, such as that of the bias of attention keys, is."""
    num_zero_gradients: int
    timestamp: str
    """When it was looked at, ISO 8601, UTC."""
    exploding: tuple[str, ...] = ()
    """Parameters whose norm is finite and above the upper threshold."""
    vanishing: tuple[str, ...] = ()
    """Parameters whose norm is below the lower threshold, but not 0."""
    zero: tuple[str, ...] = ()
    non_finite: tuple[str, ...] = ()

    @classmethod
    def judge(
        cls, names: Sequence[str], norms: Sequence[float], threshold_max: float, threshold_min: float
    ) -> "GradientHealth":
        """The health of gradients whose parameters are called `names`."""
        named = list(zip(names, norms, strict=True))
        finite = [norm for norm in norms if math.isfinite(norm)]
        exploding = tuple(name for name, norm in named if threshold_max < norm < math.inf)
        vanishing = tuple(name for name, norm in named if 0 < norm < threshold_min)
        zero = tuple(name for name, norm in named if norm == 0)
        non_finite = tuple(name for name, norm in named if not math.isfinite(norm))
        return cls(
            max_norm=max(finite, default=math.nan),
            min_norm=min(finite, default=math.nan),
            mean_norm=sum(finite) / len(finite) if finite else math.nan,
            has_exploding_gradients=bool(exploding or non_finite),
            has_vanishing_gradients=bool(vanishing or zero),
            num_zero_gradients=len(zero),
            timestamp=datetime.now(UTC).isoformat(timespec="seconds"),
            exploding=exploding,
            vanishing=vanishing,
            zero=zero,
            non_finite=non_finite,
        )


def check_gradient_health(
    model: nn.Module, threshold_max: float = 1.0, threshold_min: float = _VANISHING_NORM
) -> GradientHealth:
    """Look at the gradients `model` has now, once; waits for the device.

    Args:
        model: after a backward pass. Parameters without a gradient are left out.
        threshold_max: norms above are exploding.
        threshold_min: norms below are vanishing.

    Raises:
        ConfigError: there is no gradient to look at.
    """
    names, norms = _norms(model)
    return GradientHealth.judge(names, norms.tolist(), threshold_max, threshold_min)


class GradientMonitor(Hook):
    """Looks at the gradients of every so many updates, on its own or as a hook.

    The update clears gradients after its step, so it is the update that calls `observe` at the right moment: after the
    backward pass, with the scale of mixed precision taken out, before clipping. That costs nothing but for one
    `_foreach_norm` per check; the norms stay on the device until the epoch ends. Then, as a hook, it adds
    `gradients/max_norm`, `gradients/min_norm` and `gradients/mean_norm` (of the epoch's checks: largest, smallest,
    mean) to the metrics, and logs a warning that names the parameters when a norm was critical or not finite.
    """

    def __init__(
        self,
        check_interval: int = 10,
        norm_threshold_warning: float = 1.0,
        norm_threshold_critical: float = 10.0,
        log_distribution: bool = True,
        norm_threshold_vanishing: float = _VANISHING_NORM,
        stop_when_critical: bool = False,
    ) -> None:
        """Look at the first of every `check_interval` updates.

        Args:
            check_interval: updates from one check to the next.
            norm_threshold_warning: a parameter's norm above it counts as exploding.
            norm_threshold_critical: a parameter's norm above it is told of at the end of the epoch.
            log_distribution: keep a histogram of all norms, in decades.
            norm_threshold_vanishing: a parameter's norm below it counts as vanishing.
            stop_when_critical: end training after an epoch with a critical norm.

        Raises:
            ConfigError: the interval is below 1, or the thresholds are not in order.
        """
        if check_interval < 1:
            raise ConfigError(f"`check_interval` is {check_interval}; it must be at least 1 update")
        if not 0 <= norm_threshold_vanishing < norm_threshold_warning <= norm_threshold_critical:
            raise ConfigError(
                f"thresholds of gradient norms must grow from vanishing ({norm_threshold_vanishing:g}) to warning "
                f"({norm_threshold_warning:g}) to critical ({norm_threshold_critical:g})"
            )
        self._interval = check_interval
        self._warning, self._critical = norm_threshold_warning, norm_threshold_critical
        self._vanishing = norm_threshold_vanishing
        self._log_distribution = log_distribution
        self._stop_when_critical = stop_when_critical
        self._num_updates = 0
        self._pending: list[tuple[list[str], Tensor]] = []
        self._num_checks = 0
        self._max: deque[float] = deque(maxlen=_HISTORY)
        self._min: deque[float] = deque(maxlen=_HISTORY)
        self._mean: deque[float] = deque(maxlen=_HISTORY)
        self._counts = [0] * (_HIGHEST_DECADE - _LOWEST_DECADE)
        self._found: dict[str, Counter[str]] = {kind: Counter() for kind in _KINDS}

    def observe(self, model: nn.Module) -> None:
        """For the update: take note of the gradients, if this update is one to look at. Reads nothing."""
        due = self._num_updates % self._interval == 0
        self._num_updates += 1
        if due:
            self._pending.append(_norms(model))

    def check_step(self, model: nn.Module) -> GradientHealth:
        """Look at the gradients `model` has now, whatever the interval, and remember them; waits for the device.

        Raises:
            ConfigError: there is no gradient to look at.
        """
        names, norms = _norms(model)
        return self._remember(names, norms.tolist())

    def on_epoch_end(self, state: TrainingState, model: Any) -> None:
        """Read the norms of the epoch, once; add to the metrics, and speak up about critical ones."""
        healths = self._read()
        if not healths:
            return
        state.metrics["gradients/max_norm"] = _largest([health.max_norm for health in healths])
        state.metrics["gradients/min_norm"] = -_largest([-health.min_norm for health in healths])
        state.metrics["gradients/mean_norm"] = sum(health.mean_norm for health in healths) / len(healths)
        wild = sorted({name for health in healths for name in health.non_finite})
        if not wild and not state.metrics["gradients/max_norm"] > self._critical:
            return
        largest = max(healths, key=lambda health: -math.inf if math.isnan(health.max_norm) else health.max_norm)
        what = (
            f"gradients of {', '.join(wild)} were not finite"
            if wild
            else f"a gradient norm of {largest.max_norm:.3g} (among {', '.join(largest.exploding)})"
        )
        _log.warning("%s: epoch %d: %s; critical is %g", state.name, state.epoch, what, self._critical)
        if self._stop_when_critical and state.stop_reason is None:
            state.stop_reason = f"critical gradients: {what}"

    def get_statistics(self) -> dict[str, Any]:
        """All checks so far; waits for the device.

        Returns:
            `check_count`; `max_norm_history`, `min_norm_history`, `mean_norm_history`: of the last 10,000 checks;
            `exploding`, `vanishing`, `zero`, `non_finite`: how often each parameter was, only those that were;
            `histogram`: when kept, `decades` (n + 1 edges, as powers of ten) and `counts` (n) of finite norms above 0.
        """
        self._read()
        statistics: dict[str, Any] = {
            "check_count": self._num_checks,
            "max_norm_history": list(self._max),
            "min_norm_history": list(self._min),
            "mean_norm_history": list(self._mean),
            **{kind: dict(names) for kind, names in self._found.items()},
        }
        if self._log_distribution:
            edges = list(range(_LOWEST_DECADE, _HIGHEST_DECADE + 1))
            statistics["histogram"] = {"decades": edges, "counts": list(self._counts)}
        return statistics

    def state_dict(self) -> dict[str, Any]:
        """The statistics, and the checks of the epoch that were not read yet."""
        return {
            "num_updates": self._num_updates,
            "pending": [(list(names), norms) for names, norms in self._pending],
            "num_checks": self._num_checks,
            "histories": [list(self._max), list(self._min), list(self._mean)],
            "counts": list(self._counts),
            "found": {kind: dict(names) for kind, names in self._found.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._num_updates, self._num_checks = state["num_updates"], state["num_checks"]
        self._pending = [(list(names), norms) for names, norms in state["pending"]]
        self._max, self._min, self._mean = (deque(values, maxlen=_HISTORY) for values in state["histories"])
        self._counts = list(state["counts"])
        self._found = {kind: Counter(names) for kind, names in state["found"].items()}

    def _read(self) -> list[GradientHealth]:
        """The checks that still lie on the device, read in one go."""
        if not self._pending:
            return []
        rows = torch.cat([norms for _, norms in self._pending]).tolist()
        healths: list[GradientHealth] = []
        for names, _ in self._pending:
            healths.append(self._remember(names, rows[: len(names)]))
            rows = rows[len(names) :]
        self._pending = []
        return healths

    def _remember(self, names: Sequence[str], norms: Sequence[float]) -> GradientHealth:
        """Judge one check and add it to the statistics."""
        health = GradientHealth.judge(names, norms, self._warning, self._vanishing)
        self._num_checks += 1
        self._max.append(health.max_norm)
        self._min.append(health.min_norm)
        self._mean.append(health.mean_norm)
        for kind, found in self._found.items():
            found.update(getattr(health, kind))
        if self._log_distribution:
            for norm in norms:
                if 0 < norm < math.inf:
                    decade = math.floor(math.log10(norm)) - _LOWEST_DECADE
                    self._counts[min(max(decade, 0), len(self._counts) - 1)] += 1
        return health


def _norms(model: nn.Module) -> tuple[list[str], Tensor]:
    """Parameters that have gradients, and the norms of these, float64 [parameter], where the gradients are."""
    named = [(name, gradient) for name, value in model.named_parameters() if (gradient := value.grad) is not None]
    if not named:
        raise ConfigError("there is no gradient to look at: call this after the backward pass, before they are cleared")
    # float64: the square of a large float32 gradient overflows, and the norm would not say that it was finite.
    norms = torch._foreach_norm([gradient for _, gradient in named], 2, torch.float64)  # pyright: ignore[reportPrivateImportUsage]
    return [name for name, _ in named], torch.stack(norms)


def _largest(values: Sequence[float]) -> float:
    """The largest that is a number; NaN when none is."""
    return max((value for value in values if not math.isnan(value)), default=math.nan)
