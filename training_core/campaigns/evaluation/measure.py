"""Measuring a model: every part of an `EvaluationReport`, from predictions of rows the model was not trained on."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training_core.artifacts import verify_published
from training_core.campaigns.bagging import open_dataset
from training_core.campaigns.evaluation.config import EvaluationConfig
from training_core.campaigns.evaluation.cost import measure_cost
from training_core.campaigns.evaluation.oracle import OracleRef
from training_core.campaigns.evaluation.outcome import (
    BEST_SINGLE,
    ENSEMBLE,
    PLAIN_MEAN,
    EvaluationReport,
    JudgedRows,
    ModalityShare,
    OracleScore,
    PatternEvaluation,
    PredictorScore,
)
from training_core.campaigns.evaluation.predictors import Predictor, best_for, predictors_of
from training_core.campaigns.evaluation.subject import ModelRef, judged_rows, require_same_samples, training_run
from training_core.errors import DataError
from training_core.evaluation.attribution import MAX_EXACT, shapley_values, shares
from training_core.evaluation.calibration_quality import calibration_quality
from training_core.evaluation.conflict import ConflictScore, conflict_score, spoil
from training_core.evaluation.diversity import Diversity, diversity
from training_core.evaluation.metrics import metrics, score
from training_core.evaluation.patterns import pattern_score
from training_core.evaluation.robustness import MissingRateCurve, missing_rate_curve
from training_core.evaluation.selective import selective_score
from training_core.evaluation.statistics import (
    Resamples,
    compare,
    holm,
    percentile_interval,
    resample,
    resampled_scores,
    score_interval,
)
from training_core.jobs import DatasetRef
from training_core.schema import Pattern, Samples, TaskSpec, patterns_to_judge
from training_core.selection.ensemble import Ensemble

_MAX_PAIRED = 24
"""Learners of which every pair is compared: 276 pairs."""
_SAMPLED_ROWS = 400
"""Rows on which a modality's worth is estimated where there are too many patterns to predict all rows under each."""


class _Judge:
    """The rows that judge, held once for all parts of an evaluation."""

    def __init__(self, request: EvaluationConfig, model: ModelRef, ref: DatasetRef) -> None:
        dataset = open_dataset(ref)
        self.ensemble = model.load()
        require_same_samples(self.ensemble, dataset, model.name)
        rows, left_out, checked = judged_rows(self.ensemble, dataset, request.rows)
        self.request, self.dataset, self.positions = request, dataset, rows
        self.samples: Samples = dataset.samples(rows, modalities=self.ensemble.spec.names)
        if self.samples.target is None:
            raise DataError(f"{ref.label} has no targets, so there is nothing to judge by; give data with answers")
        self.target = self.samples.target
        self.task: TaskSpec = self.ensemble.task
        self.names = self.ensemble.spec.names
        self.available = self.samples.availability(self.names)
        times = dataset.times(rows)
        self.order = None if times is None else np.argsort(times, kind="stable")
        self.drawn: Resamples = resample(len(rows), request.num_resamples, request.seed, dataset.groups(rows), times)
        self.rows = JudgedRows(
            which=request.rows,
            num_rows=len(rows),
            trained_on=left_out,
            checked=checked,
            unit=self.drawn.unit,
            num_units=self.drawn.num_units,
            num_resamples=len(self.drawn.counts),
        )
        self.predictors = {found.name: found for found in predictors_of(self.ensemble, self.samples)}

    def __getitem__(self, name: str) -> Predictor:
        return self.predictors[name]

    @property
    def full(self) -> Pattern:
        """Every modality."""
        return frozenset(self.names)

    def values(self, predictor: str, pattern: Pattern | None = None) -> np.ndarray:
        """What a predictor says under a pattern, [N, C]."""
        return self[predictor].under(self.full if pattern is None else pattern).values


def evaluate(
    request: EvaluationConfig,
    models: Sequence[ModelRef],
    ref: DatasetRef,
    store: Path,
    oracles: Sequence[OracleRef] = (),
) -> EvaluationReport:
    """Judge the first of `models` in full, and compare it with the others on the same rows.

    Args:
        request: what to judge on and how thoroughly.
        models: the judged one first, then those of `request.against`.
        ref: the data set.
        store: where the record of the training run is looked for.
        oracles: ensembles trained on fewer modalities; see `campaigns.evaluation.oracle`.

    Raises:
        StorageError: a model's files are not what was published.
        DataError: the data is not what a model was trained on, or holds no row it has not seen.
    """
    started = time.monotonic()
    for model in models:
        verify_published(model.artifact)
    model = models[0]
    judge = _Judge(request, model, ref)
    predictors = _predictor_scores(judge, models[1:])
    run = training_run(model.artifact, store)
    return EvaluationReport(
        request=request,
        model=model.name,
        ensemble=model.artifact.uri,
        trained_on=judge.ensemble.manifest.dataset,
        dataset=ref.label,
        task=judge.task,
        metric=judge.task.metric,
        score=predictors[0].score,
        rows=judge.rows,
        predictors=predictors,
        patterns=_patterns(judge, oracles),
        curves=_curves(judge),
        selective=selective_score(judge.task, judge.target, judge[ENSEMBLE].under(judge.full)),
        conflict=_conflict(judge),
        diversity=_diversity(judge),
        modalities=_modality_shares(judge),
        cost=measure_cost(model.artifact, judge.samples, run),
        failures=run.failures if run else {},
        seconds=time.monotonic() - started,
    )


def _predictor_scores(judge: _Judge, rivals: Sequence[ModelRef]) -> tuple[PredictorScore, ...]:
    """The ensemble, what it is made of, and other models."""
    asked = [
        (ENSEMBLE, "", judge.values(ENSEMBLE)),
        (BEST_SINGLE, best_for(judge.ensemble, judge.full), judge.values(BEST_SINGLE)),
        (PLAIN_MEAN, f"{len(judge.ensemble.members)} learners", judge.values(PLAIN_MEAN)),
    ]
    own = len(asked)
    for rival in rivals:
        ensemble = rival.load()
        require_same_samples(ensemble, judge.dataset, rival.name)
        kept, left_out, _ = judged_rows(ensemble, judge.dataset, judge.request.rows)
        seen = len(np.setdiff1d(judge.positions, kept))
        if seen:
            raise DataError(
                f"{rival.name} was trained on {seen} of the {len(judge.positions)} rows that judge ({left_out} of "
                f"{judge.dataset.ref}); compare models that were trained on the same split"
            )
        asked.append(("other model", rival.name, ensemble.predict(judge.samples).values))
    reference = asked[0][2]
    found = [
        PredictorScore(
            predictor=name,
            detail=detail,
            score=score(judge.task, judge.target, values),
            interval=score_interval(judge.task, judge.target, values, judge.drawn, judge.request.level),
            metrics=metrics(judge.task, judge.target, values),
            lead=None
            if values is reference
            else compare(judge.task, judge.target, reference, values, judge.drawn, judge.request.level),
            num_rows=len(judge.target),
        )
        for name, detail, values in asked
    ]
    adjusted = holm(np.array([one.lead.p_value for one in found[own:] if one.lead is not None]))
    rated = [
        one.model_copy(update={"adjusted_p_value": float(p)}) for one, p in zip(found[own:], adjusted, strict=True)
    ]
    return (*found[:own], *rated)


def _patterns(judge: _Judge, oracles: Sequence[OracleRef]) -> tuple[PatternEvaluation, ...]:
    """Every pattern, the full set first."""
    task, target, drawn, level = judge.task, judge.target, judge.drawn, judge.request.level
    by_pattern = {frozenset(oracle.available): oracle for oracle in oracles}
    found = []
    for pattern in patterns_to_judge(judge.names):
        mine = judge[ENSEMBLE].under(pattern)
        best, mean = judge.values(BEST_SINGLE, pattern), judge.values(PLAIN_MEAN, pattern)
        found.append(
            PatternEvaluation(
                ensemble=pattern_score(task, pattern, mine, target, judge.names),
                interval=score_interval(task, target, mine.values, drawn, level),
                best_single=score(task, target, best),
                plain_mean=score(task, target, mean),
                lead_over_best_single=compare(task, target, mine.values, best, drawn, level),
                lead_over_mean=compare(task, target, mine.values, mean, drawn, level),
                calibration=calibration_quality(task, target, mine, _promised(judge.ensemble, pattern)),
                oracle=_oracle(judge, pattern, mine.values, by_pattern[pattern]) if pattern in by_pattern else None,
            )
        )
    return tuple(found)


def _promised(ensemble: Ensemble, pattern: Pattern) -> float | None:
    """How often sets and intervals are to hold the truth under a pattern; None where nothing is promised."""
    rules = {found.pattern: found.conformal for found in ensemble.manifest.patterns}
    rule = rules.get(pattern) or next((rule for rule in rules.values() if rule is not None), None)
    return None if rule is None else rule.coverage


def _oracle(judge: _Judge, pattern: Pattern, mine: np.ndarray, oracle: OracleRef) -> OracleScore:
    verify_published(oracle.artifact)
    values = Ensemble.load(oracle.artifact.path).under_patterns(judge.samples).predict(pattern).values
    return OracleScore(
        score=score(judge.task, judge.target, values),
        interval=score_interval(judge.task, judge.target, values, judge.drawn, judge.request.level),
        gap=compare(judge.task, judge.target, values, mine, judge.drawn, judge.request.level),
        ensemble=oracle.artifact.uri,
        num_rows=len(judge.target),
    )


def _curves(judge: _Judge) -> tuple[MissingRateCurve, ...]:
    """Every predictor on the same masks, cells at random and outages."""
    return tuple(
        missing_rate_curve(
            judge.task,
            judge.target,
            judge.available,
            predictor.shown,
            name,
            missingness,
            judge.request.rates,
            judge.request.repeats,
            judge.request.seed,
            judge.order,
        )
        for missingness in ("random", "block")
        for name, predictor in judge.predictors.items()
    )


def _conflict(judge: _Judge) -> tuple[ConflictScore, ...]:
    spoilt = spoil(judge.ensemble.spec, judge.samples, judge.request.conflict, judge.request.seed)
    return tuple(
        conflict_score(
            judge.task, judge.target, name, predictor.under(judge.full), predictor.of(spoilt.samples), spoilt
        )
        for name, predictor in judge.predictors.items()
    )


def _diversity(judge: _Judge) -> Diversity | None:
    """Of the learners with a weight when everything is present, the heaviest first where there are many."""
    weights = {name: weight for name, weight in judge.ensemble.weights().items() if weight > 0}
    chosen = sorted(weights, key=lambda name: (-weights[name], name))[:_MAX_PAIRED]
    if len(chosen) < 2:
        return None
    under = judge.ensemble.under_patterns(judge.samples)
    answers = []
    for name in chosen:
        found = under.predict_member(name)
        answers.append(np.where((found.num_learners > 0)[:, None], found.values, np.nan))
    share = np.array([weights[name] for name in chosen])
    return diversity(judge.task, judge.target, np.stack(answers), share, chosen)


def _modality_shares(judge: _Judge) -> tuple[ModalityShare, ...]:
    """Weights, and Shapley's value of the score, with an interval from the same resamples for every pattern."""
    target, drawn = judge.target, judge.drawn
    predict = judge[ENSEMBLE].under
    if len(judge.names) > MAX_EXACT and len(target) > _SAMPLED_ROWS:
        chosen = np.sort(np.random.default_rng(judge.request.seed).choice(len(target), _SAMPLED_ROWS, replace=False))
        together = None if drawn.unit == "row" else drawn.units[chosen]
        target = target[chosen]
        drawn = resample(_SAMPLED_ROWS, judge.request.num_resamples, judge.request.seed, together)
        predict = judge.ensemble.under_patterns(judge.samples.take(chosen)).predict

    def worth(pattern: Pattern) -> np.ndarray:
        values = predict(pattern).values
        return np.append(resampled_scores(judge.task, target, values, drawn), score(judge.task, target, values))

    found = shapley_values(judge.names, worth, seed=judge.request.seed)
    weight = judge.ensemble.modality_weights()
    parts = shares(np.array([found[name][-1] for name in judge.names]))
    everything = score(judge.task, judge.target, judge.values(ENSEMBLE))
    return tuple(
        ModalityShare(
            modality=name,
            weight_share=weight[name],
            shapley=float(found[name][-1]),
            interval=percentile_interval(found[name][:-1], judge.request.level),
            shapley_share=float(part),
            alone=score(judge.task, judge.target, judge.values(ENSEMBLE, frozenset({name}))),
            drop=everything - score(judge.task, judge.target, judge.values(ENSEMBLE, judge.full - {name})),
            num_rows=len(target),
        )
        for name, part in zip(judge.names, parts, strict=True)
    )
