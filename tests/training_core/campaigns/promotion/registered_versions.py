"""Versions in a real registry without ensembles behind them, and proposals about them without contests."""

from pathlib import Path

from training_core.campaigns.promotion.contest import Contest, PatternDuel
from training_core.campaigns.promotion.decide import PromotionConfig, PromotionDecision
from training_core.campaigns.promotion.proposal import Proposal
from training_core.evaluation.statistics import Difference, Interval
from training_core.tracking.mlflow_registry import MLflowRegistry
from training_core.tracking.registry import Origin, Registry, open_registry


def register_versions(store: Path, number: int = 1, name: str = "shoes") -> Registry:
    """So many more versions of a model."""
    registry = open_registry(("mlflow",), store)
    assert isinstance(registry, MLflowRegistry)
    client = registry._tracker.client
    if not registry.versions(name):
        client.create_registered_model(name)
    for _ in range(number):
        origin = Origin(dataset=f"{name}@1f3a", code="0.1.0+abc", config_hash="c" * 64, metric="accuracy")
        client.create_model_version(name, str(store / "none"), tags=origin.tags())
    return registry


def proposal(champion: int | None, challenger: int, promote: bool = True, **request: object) -> Proposal:
    """A case that is decided already."""
    decision = PromotionDecision(promote=promote, ground="better" if promote else "no gain", reason="as it was found")
    config = PromotionConfig.parse({"model": "shoes", **request}, "test")
    return Proposal(request=config, champion=champion, challenger=challenger, contest=None, decision=decision)


def difference(value: float, p_value: float, margin: float = 0.01, num_rows: int = 500) -> Difference:
    return Difference(
        difference=value,
        interval=Interval(low=value - margin, high=value + margin),
        p_value=p_value,
        wilcoxon_p_value=p_value,
        num_rows=num_rows,
        num_units=num_rows,
    )


def contest(
    gain: float = 0.02, saved: float = 0.05, p_value: float = 0.001, pattern: tuple[float, float] = (0.0, 1.0)
) -> Contest:
    """Accuracy .9 against .9 + gain; with only `left` it changes by `pattern[0]` with the p-value `pattern[1]`."""
    duels = [(("left", "right"), gain, p_value), (("left",), *pattern)]
    return Contest(
        champion="models:/shoes/1",
        challenger="models:/shoes/2",
        dataset="shoes@1f3a",
        rows="unseen",
        num_rows=500,
        left_out=40,
        checked=True,
        unit="row",
        metric="accuracy",
        champion_score=0.9,
        challenger_score=0.9 + gain,
        difference=difference(gain, p_value),
        loss=difference(saved, p_value),
        patterns=tuple(
            PatternDuel(
                available=names,
                champion=0.9,
                challenger=0.9 + change,
                difference=difference(change, p),
                adjusted_p_value=p,
            )
            for names, change, p in duels
        ),
        champion_metrics={"accuracy": 0.9, "log_loss": 0.4},
        challenger_metrics={"accuracy": 0.9 + gain, "log_loss": 0.4 - saved},
    )
