"""From what learners say to the ensemble's answer, whatever modalities each row has: `selection` as one torch module.

Which weights, temperatures and promises hold for a row is looked up by its availability mask in tables with a line per
listed pattern. Shapes: N rows, M modalities, P listed patterns and a blank one, L learners, C outputs.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from training_core.evaluation.calibration import LEAST_PROBABILITY
from training_core.schema import TaskSpec
from training_core.selection.answering import temperature_line
from training_core.selection.combination import PatternWeights
from training_core.selection.conformal import prediction_sets
from training_core.selection.ensemble import Ensemble
from training_core.selection.manifest import Member
from training_core.selection.pooling import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE

SET_SLACK = 1e-6
"""As in `selection.conformal`: scores this close above a threshold are still inside."""
_STEEPEST = 3.0
_LEAST = 1e-12


class Usable(nn.Module):
    """Which learners can answer for which rows, bool [N, L]: one of its modalities is there, and all it needs."""

    def __init__(self, own: Sequence[Sequence[bool]], needed: Sequence[Sequence[bool]]) -> None:
        super().__init__()
        self.register_buffer("own", torch.tensor(own, dtype=torch.bool))
        self.register_buffer("needed", torch.tensor(needed, dtype=torch.bool))

    def forward(self, available: Tensor) -> Tensor:
        """`available` bool [N, M]."""
        there = available.unsqueeze(1)
        return (there & self.get_buffer("own")).any(dim=2) & (there | ~self.get_buffer("needed")).all(dim=2)


class PatternTable(nn.Module):
    """Which listed pattern's calibration holds for a row, and the weights of its learners; see `Ensemble.rule`."""

    def __init__(self, ensemble: Ensemble, names: Sequence[str]) -> None:
        super().__init__()
        listed = ensemble.manifest.patterns
        masks = [[name in found.pattern for name in ensemble.spec.names] for found in listed]
        weights = [[found.weights.get(name, 0.0) for name in names] for found in listed]
        self.register_buffer("masks", torch.tensor(masks, dtype=torch.bool))
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float64))
        self.register_buffer("summed", self.get_buffer("weights").sum(dim=0))
        self.register_buffer("uninformed", torch.tensor([found.uninformed for found in listed]))
        # Positions as a second key: of patterns equally near the first is taken. One without weights is nobody's
        # neighbour; where all are so, the blank one behind them is.
        lend = torch.tensor([0 if found.weights else 10**9 for found in listed])
        self.register_buffer("handicap", lend * len(listed) + torch.arange(len(listed)))
        self.blank = len(listed) if not any(found.weights for found in listed) else -1

    def forward(self, available: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
        """Line of each row int64 [N], and weights float64 [N, L], which sum to 1, or to 0 where nobody answers."""
        differs = available.unsqueeze(1) != self.get_buffer("masks")
        distance = differs.sum(dim=2)
        line = (distance * differs.shape[1] + self.get_buffer("handicap")).argmin(dim=1)
        if self.blank >= 0:
            line = torch.full_like(line, self.blank)
        same = distance == 0
        known = same.any(dim=1)
        line = torch.where(known, same.int().argmax(dim=1), line)
        mine = known.unsqueeze(1).double() * (same.double() @ self.get_buffer("weights"))
        can = usable.double()
        weights = mine * can
        for others in (self.get_buffer("summed"), torch.ones_like(self.get_buffer("summed"))):
            silent = weights.sum(dim=1, keepdim=True) <= 0
            weights = torch.where(silent, others * can, weights)
        weights = weights * (~(same & self.get_buffer("uninformed")).any(dim=1)).unsqueeze(1).double()
        total = weights.sum(dim=1, keepdim=True)
        return line, weights / torch.where(total > 0, total, torch.ones_like(total))


class MemberTemperatures(nn.Module):
    """Each learner's own temperature, [N, L]: it depends on which of its modalities a row has."""

    def __init__(self, members: Sequence[Member], names: Sequence[str]) -> None:
        super().__init__()
        most = max(1, *(len(member.temperatures) for member in members))
        masks = np.zeros((len(members), most, len(names)), dtype=bool)
        own = np.zeros((len(members), 1, len(names)), dtype=bool)
        values = np.ones((len(members), most))
        listed = np.zeros((len(members), most), dtype=bool)
        for i, member in enumerate(members):
            own[i, 0] = [name in member.modalities for name in names]
            for k, (key, temperature) in enumerate(member.temperatures.items()):
                masks[i, k] = [name in key.split("+") for name in names]
                values[i, k], listed[i, k] = temperature, True
        self.register_buffer("masks", torch.from_numpy(masks))
        self.register_buffer("own", torch.from_numpy(own))
        self.register_buffer("values", torch.from_numpy(values))
        self.register_buffer("listed", torch.from_numpy(listed))

    def forward(self, available: Tensor) -> Tensor:
        """`available` bool [N, M]."""
        left = available[:, None, None, :] & self.get_buffer("own")
        same = (left == self.get_buffer("masks")).all(dim=3) & self.get_buffer("listed")
        found = (same.double() * self.get_buffer("values")).sum(dim=2)
        return torch.where(same.any(dim=2), found, torch.ones_like(found))


class Calibration(nn.Module):
    """The temperature of the mixture and the stacker's correction; see `selection.answering.calibrated_values`."""

    def __init__(self, task: TaskSpec, listed: Sequence[PatternWeights], names: Sequence[str]) -> None:
        super().__init__()
        self.task = task
        lines = [temperature_line(found) for found in listed]
        width, stackers = task.num_outputs, [found.stacker for found in listed]
        self.stacks = any(stackers)
        self.register_buffer("level", _table([[line.level] for line in lines]))
        self.register_buffer("slope", _table([[line.slope] for line in lines]))
        self.register_buffer("stacked", torch.tensor([[s is not None] for s in stackers]))
        factors = [[s.coefficients.get(name, 0.0) if s else 0.0 for name in names] for s in stackers]
        self.register_buffer("factors", _table(factors))
        self.register_buffer("bias", _table([s.bias if s else (0.0,) * width for s in stackers]))

    def forward(self, line: Tensor, mixed: Tensor, spread: Tensor, said: Tensor, share: Tensor) -> Tensor:
        """The answers [N, C].

        Args:
            line: of the tables, [N].
            mixed: the pool [N, C].
            spread: its concentration [N, 1].
            said: [N, L, C], anything where `share` is 0.
            share: of the learners that speak, [N, L], sum 1.
        """
        level, slope = self.get_buffer("level")[line], self.get_buffer("slope")[line]
        temperature = (level * (1.0 + slope * spread)).clamp(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)
        values = at_temperature(self.task, mixed, temperature)
        if not self.stacks:
            return values
        score = _scores(self.task, values)
        away = _scores(self.task, said) - score.unsqueeze(1)
        factors = (self.get_buffer("factors")[line] * share).unsqueeze(2)
        step = torch.where(factors != 0, away, torch.zeros_like(away))
        corrected = _answers(self.task, score + (factors * step).sum(dim=1) + self.get_buffer("bias")[line])
        return torch.where(self.get_buffer("stacked")[line], corrected, values)


class Errors(nn.Module):
    """Regression: the error to be expected of each value, and the share of variance explained."""

    def __init__(self, listed: Sequence[PatternWeights], prior_std: Sequence[float]) -> None:
        super().__init__()
        width, spreads = len(prior_std), [found.spread for found in listed]
        self.varies = any(spreads)
        features = ((0.0,) * 3,) * width
        self.register_buffer("usual", _table([found.error_std or prior_std for found in listed]))
        self.register_buffer("explained", _table([[found.explained or 0.0] for found in listed]))
        self.register_buffer("modelled", torch.tensor([[s is not None] for s in spreads]))
        self.register_buffer("centres", _table([s.centres if s else features for s in spreads]))
        self.register_buffer("scales", _table([s.scales if s else ((1.0,) * 3,) * width for s in spreads]))
        self.register_buffer("intercept", _table([s.intercept if s else (0.0,) * width for s in spreads]))
        self.register_buffer("slopes", _table([s.slopes if s else features for s in spreads]))

    def forward(
        self, line: Tensor, values: Tensor, mixed: Tensor, spread: Tensor, said: Tensor, share: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Expected errors [N, K] and explained shares [N]; see `spread.SpreadModel` and `Calibration.forward`.

        `count` [N] learners speak.
        """
        factors = torch.ones_like(values)
        if self.varies:
            away = torch.where(share.unsqueeze(2) > 0, said - mixed.unsqueeze(1), torch.zeros_like(said))
            alone = (count < 2).unsqueeze(1)
            free = torch.where(alone, torch.ones_like(spread), 1.0 - spread)
            variance = (share.unsqueeze(2) * away.square()).sum(dim=1) / free
            # Rounding may leave less than nothing of a mean that all agree on.
            features = torch.stack([values, values.square(), (variance + _LEAST).log()], dim=2)
            centres = self.get_buffer("centres")[line]
            usual = torch.zeros(3, dtype=torch.bool)
            usual[2] = True
            features = torch.where(alone.unsqueeze(2) & usual, centres, features)
            standard = (features - centres) / self.get_buffer("scales")[line]
            logs = self.get_buffer("intercept")[line] + (standard * self.get_buffer("slopes")[line]).sum(dim=2)
            found = (0.5 * logs.clamp(-_STEEPEST, _STEEPEST)).exp()
            factors = torch.where(self.get_buffer("modelled")[line], found, factors)
        explained = 1.0 - (1.0 - self.get_buffer("explained")[line].squeeze(1)) * factors.square().mean(dim=1)
        return self.get_buffer("usual")[line] * factors, explained.clamp(0.0, 1.0)


class Promise(nn.Module):
    """What cannot be ruled out: sets of classes or labels, or bounds; see `selection.conformal`."""

    def __init__(self, task: TaskSpec, listed: Sequence[PatternWeights]) -> None:
        super().__init__()
        self.task = task
        width = task.num_outputs if task.kind == "regression" else 1
        infinite = (float("inf"),) * width
        thresholds = [found.conformal.thresholds if found.conformal else infinite for found in listed]
        self.register_buffer("thresholds", _table(thresholds))
        adds = [[bool(found.conformal and found.conformal.method == "aps")] for found in listed]
        self.register_buffer("adds", torch.tensor(adds))
        self.any_adds = task.kind == "classification" and any(add for (add,) in adds)

    def bounds(self, line: Tensor, values: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of each value, [N, K]."""
        half = self.get_buffer("thresholds")[line] * std
        return values - half, values + half

    def sets(self, line: Tensor, values: Tensor) -> Tensor:
        """Classes or labels that cannot be ruled out, bool [N, C]."""
        scores = 1.0 - values
        if self.any_adds:
            ordered, order = values.sort(dim=1, descending=True, stable=True)
            summed = torch.zeros_like(values).scatter(1, order, ordered.cumsum(dim=1))
            scores = torch.where(self.get_buffer("adds")[line], summed, scores)
        inside = scores <= self.get_buffer("thresholds")[line] + SET_SLACK
        if self.task.kind == "classification":
            first = values.argmax(dim=1, keepdim=True)
            inside = inside | (torch.arange(self.task.num_outputs) == first)
        return inside


class Combination(nn.Module):
    """Everything between what learners say and the ensemble's answer; see `selection.pattern_predictions`."""

    def __init__(self, ensemble: Ensemble, members: Sequence[Member]) -> None:
        super().__init__()
        manifest, task = ensemble.manifest, ensemble.task
        names = [member.name for member in members]
        blank = PatternWeights(available=(), weights={})
        listed = (*manifest.patterns, blank)
        self.task = task
        self.table = PatternTable(ensemble, names)
        self.temperatures = MemberTemperatures(members, ensemble.spec.names)
        self.calibration = Calibration(task, listed, names)
        regression = task.kind == "regression"
        prior_std = manifest.prior_std if regression else None
        self.errors = Errors(listed, prior_std) if prior_std else None
        promises = manifest.prior_conformal is not None and (not regression or prior_std is not None)
        self.promise = Promise(task, listed) if promises else None
        explained = [[found.explained or 0.0] for found in listed]
        self.register_buffer("explained", _table(explained))
        self.register_buffer("prior", _table(manifest.prior))
        self.register_buffer("prior_std", _table(prior_std) if prior_std else None)
        prior_set = half = None
        if promises and manifest.prior_conformal is not None:
            if prior_std:
                half = _table(manifest.prior_conformal.thresholds) * _table(prior_std)
            else:
                prior_set = torch.from_numpy(
                    prediction_sets(task, np.array([manifest.prior]), manifest.prior_conformal)[0]
                )
        self.register_buffer("prior_half", half)
        self.register_buffer("prior_set", prior_set)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What `forward` gives, in order."""
        doubts = ("std",) if self.errors is not None else ()
        if self.promise is not None:
            doubts += ("lower", "upper") if self.errors is not None else ("sets",)
        return ("values", "confidence", "num_learners", *doubts)

    def forward(self, said: Tensor, usable: Tensor, available: Tensor) -> tuple[Tensor, ...]:
        """The fields of `evaluation.predictions.Predictions` that are named in `output_names`.

        Args:
            said: by every learner, float64 [N, L, C]; anything where it is not usable.
            usable: bool [N, L].
            available: bool [N, M].
        """
        line, weights = self.table(available, usable)
        speaks = (weights > 0) & torch.isfinite(said).all(dim=2)
        said = torch.where(speaks.unsqueeze(2), said, torch.full_like(said, 0.5))
        if self.task.kind != "regression":
            own = self.temperatures(available).unsqueeze(2)
            said = torch.where(own == 1.0, said, at_temperature(self.task, said, own))
        heard = weights * speaks.double()
        count, total = speaks.sum(dim=1), heard.sum(dim=1, keepdim=True)
        covered = (count > 0).unsqueeze(1)
        share = heard / torch.where(covered, total, torch.ones_like(total))
        mixed, spread = (share.unsqueeze(2) * said).sum(dim=1), share.square().sum(dim=1, keepdim=True)
        # Where nobody speaks the prior goes through the same sums, so that no logarithm meets a 0.
        prior = self.get_buffer("prior").expand_as(mixed)
        mixed = torch.where(covered, mixed, prior)
        values = torch.where(covered, self.calibration(line, mixed, spread, said, share), prior)
        outputs = [values, self._confidence(line, values, covered.squeeze(1)), count]
        if self.errors is not None:
            std, explained = self.errors(line, values, mixed, spread, said, share, count)
            outputs[1] = torch.where(covered.squeeze(1), explained, torch.zeros_like(explained))
            outputs.append(torch.where(covered, std, self.get_buffer("prior_std")))
        if self.promise is not None and self.errors is not None:
            half = self.get_buffer("prior_half")
            lower, upper = self.promise.bounds(line, values, outputs[3])
            outputs.append(torch.where(covered, lower, values - half))
            outputs.append(torch.where(covered, upper, values + half))
        elif self.promise is not None:
            # Spelled out: ONNX Runtime cannot choose between booleans.
            sets = self.promise.sets(line, values)
            outputs.append((covered & sets) | (~covered & self.get_buffer("prior_set")))
        return tuple(outputs)

    def _confidence(self, line: Tensor, values: Tensor, covered: Tensor) -> Tensor:
        """See `evaluation.calibration.confidence`."""
        if self.task.kind == "classification":
            return values.amax(dim=1)
        if self.task.kind == "multilabel":
            return torch.maximum(values, 1.0 - values).mean(dim=1)
        explained = self.get_buffer("explained")[line].squeeze(1).clamp(0.0, 1.0)
        return torch.where(covered, explained, torch.zeros_like(explained))


def at_temperature(task: TaskSpec, probabilities: Tensor, temperature: Tensor) -> Tensor:
    """Probabilities [..., C] sharpened or flattened; see `evaluation.calibration.apply_temperature`.

    `temperature` [..., 1].
    """
    if task.kind == "regression":
        return probabilities
    logs = probabilities.clamp(LEAST_PROBABILITY, 1.0).log()
    if task.kind == "classification":
        return (logs / temperature).softmax(dim=-1)
    others = (1.0 - probabilities).clamp(LEAST_PROBABILITY, 1.0).log()
    return ((logs - others) / temperature).sigmoid()


def _scores(task: TaskSpec, values: Tensor) -> Tensor:
    """As in `selection.stacking`: what is linear."""
    if task.kind == "regression":
        return values
    if task.kind == "classification":
        return values.clamp(LEAST_PROBABILITY, 1.0).log()
    kept = values.clamp(LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
    return kept.log() - (1.0 - kept).log()


def _answers(task: TaskSpec, scores: Tensor) -> Tensor:
    """The inverse of `_scores`."""
    if task.kind == "regression":
        return scores
    return scores.softmax(dim=1) if task.kind == "classification" else scores.sigmoid()


def _table(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
