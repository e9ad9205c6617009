"""What a budget makes of a plan: which learners come first, which are left out, and in which groups they train."""

from pathlib import Path

import numpy as np
import pytest
from factories import small_run, write_source

from training_core.campaigns import bagging
from training_core.campaigns.bagging import Plan
from training_core.campaigns.budget import at_most, by_gain
from training_core.campaigns.budget_use import CostScore
from training_core.campaigns.grouping import deal_in_order, predicted_seconds
from training_core.campaigns.run_config import RunConfig
from training_core.errors import ConfigError, GateError
from training_core.jobs import Job, JobReport, skipped_report


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("world"), num_rows=160)


def plan(store: Path, run: RunConfig) -> Plan:
    ref = bagging.resolve_dataset(run.dataset, store)
    return bagging.plan_training(run, ref, bagging.bags_of(run, ref))


def run_with(source: Path, budget: dict[str, object], **changes: object) -> RunConfig:
    bags = {"num_bags": 10, "num_row_draws": 1}
    return small_run(source, **{"bags": bags, "budget": {"workers": 2, **budget}, **changes})


def names(jobs: "tuple[Job, ...] | list[Job]") -> list[str]:
    return [job.name for job in jobs]


def test_without_a_budget_the_plan_is_as_it_was(store: Path, source: Path) -> None:
    found = plan(store, run_with(source, {}))
    assert (found.here, found.cover, dict(found.left_out)) == ((), (), {})


def test_a_quick_learner_of_everything_and_one_of_each_modality_come_first(store: Path, source: Path) -> None:
    found = plan(store, run_with(source, {"seconds": 60}))
    here = {job.subset.modalities for job in found.here}
    assert here == {("left", "right", "facts"), ("left",), ("right",), ("facts",)}
    assert {job.recipe.learner.kind for job in found.here} == {"linear"}
    assert found.here[0].subset.modalities == ("left", "right", "facts")
    assert names(found.here) == list(found.cover)
    planned = plan(store, run_with(source, {}))
    assert set(names(planned.jobs)) <= set(names(found.jobs)), "a budget plans nothing less; time decides"
    assert len(set(names(found.jobs))) == len(found.jobs), "and nothing twice"


def test_on_a_cluster_the_covering_set_comes_first_and_is_left_to_the_workers(store: Path, source: Path) -> None:
    alone, found = (plan(store, run_with(source, {"seconds": 60}, executor=name)) for name in ("processes", "dask"))
    assert found.here == () and found.cover == alone.cover != ()
    assert names(found.jobs) == names(alone.jobs)
    begun_first = {name for group in found.cohorts[:2] for name in names(group.jobs)}
    assert begun_first >= set(found.cover)


def test_a_covering_set_of_nets_is_left_to_the_processes(store: Path, source: Path) -> None:
    found = plan(store, run_with(source, {"seconds": 60}, learners={"include": ("tabular_mlp", "fusion_net")}))
    assert found.here == ()
    first = names([job for cohort in found.cohorts[:2] for job in cohort.jobs])
    assert set(found.cover) <= set(first)


def test_so_many_learners_and_no_more(store: Path, source: Path) -> None:
    for most in (1, 4, 7):
        found = plan(store, run_with(source, {"learners": most}))
        assert len(found.jobs) == most
        assert all("`budget.learners`" in why for why in found.left_out.values())
    assert names(plan(store, run_with(source, {"learners": 1})).jobs) == [
        plan(store, run_with(source, {"learners": 9})).cover[0]
    ]


def test_kinds_beyond_the_memory_are_left_out_and_named(store: Path, source: Path) -> None:
    both = {"learners_per_bag": 2, "include": ("linear", "tabular_mlp")}
    needed: dict[str, float] = {}
    for job in plan(store, run_with(source, {}, learners=both)).jobs:
        kind = job.recipe.learner.kind
        needed[kind] = max(needed.get(kind, 0.0), job.predicted_bytes or 0.0)
    small, large = sorted(needed, key=lambda kind: needed[kind])
    found = plan(store, run_with(source, {"memory_mb": needed[small] / 1e6 + 1e-6}, learners=both))
    assert set(found.left_out) == {large}
    assert "`budget.memory_mb` is" in found.left_out[large]
    assert all((job.predicted_bytes or 0.0) <= needed[small] + 1 for job in found.jobs)


def test_a_memory_that_nothing_fits_into_is_refused(store: Path, source: Path) -> None:
    with pytest.raises(ConfigError, match=r"linear: it would take about .* of memory, `memory_mb` is 100.0 MB"):
        plan(store, run_with(source, {"memory_mb": 100}))


def test_the_order_is_by_gain_per_second_worked_out_by_hand(store: Path, source: Path) -> None:
    job = next(job for job in plan(store, run_with(source, {})).jobs if job.recipe.learner.kind == "linear")
    quick = [job.model_copy(update={"name": f"quick{i}", "predicted_seconds": 0.7}) for i in range(3)]
    slow = job.model_copy(update={"name": "slow", "predicted_seconds": 1.7})
    # Each takes 0.3 s beside its training, so 1 s and 2 s. The k-th of the same kind and modalities gains 1/k of the
    # first: 1/1 for quick0, (1/2)/1 for quick1 against (1/2)/2 for slow, and so on.
    assert predicted_seconds([slow]) == pytest.approx(2.0)
    assert [company[0].name for company in by_gain([slow, *quick], ())] == ["quick0", "quick1", "quick2", "slow"]
    other = slow.model_copy(update={"subset": slow.subset.model_copy(update={"modalities": ("left", "facts")})})
    # With modalities of its own slow gains 1/√3 after two quick ones, in 2 s: 0.289 a second against 1/3 of the third;
    # after all three it is the last either way. A slow one of 1.2 s overtakes: 0.577/1.5 = 0.385.
    nearly = other.model_copy(update={"predicted_seconds": 1.2})
    assert [company[0].name for company in by_gain([other, *quick], ())][-1] == "slow"
    assert [company[0].name for company in by_gain([nearly, *quick], ())].index("slow") < 3
    assert by_gain([slow, *quick], ("slow",))[0][0].name == "slow", "the covering set is first"


def test_the_first_so_many_are_kept() -> None:
    assert at_most([["a", "b"], ["c"]], 1) == [["a"]]  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    assert at_most([["a", "b"], ["c"]], None) == [["a", "b"], ["c"]]  # pyright: ignore[reportArgumentType]


def test_groups_share_out_the_work_in_order(store: Path, source: Path) -> None:
    jobs = [
        job.model_copy(update={"predicted_seconds": 9.7, "name": f"{i:02d}"})
        for i, job in enumerate(plan(store, run_with(source, {})).jobs)
    ]
    groups, here = deal_in_order([[job] for job in jobs], (), workers=2, seconds=60)
    assert here == ()
    assert sorted(names([job for group in groups for job in group.jobs])) == names(jobs)
    assert names(list(groups[0].jobs)) == ["00", "02"], "a group is closed at 20 s"
    assert names(list(groups[1].jobs)) == ["01", "03"]
    begun = [min(names(list(group.jobs))) for group in groups]
    assert begun == sorted(begun), "those that begin first come first"


def test_skipped_learners_do_not_count_against_the_quorum(store: Path, source: Path) -> None:
    run = run_with(source, {"quorum": 0.9})
    jobs = plan(store, run).jobs
    trained = JobReport(name="a", status="trained", learner="linear", bag="b", modalities=("left",))
    late = [skipped_report(job, "late") for job in jobs]
    bagging.require_quorum([trained, *late], run)
    with pytest.raises(GateError, match="no time to train a single learner"):
        bagging.require_quorum(late, run)


def report(predicted: float, seconds: float, store: Path) -> JobReport:
    from training_core.artifacts import ArtifactRef

    return JobReport(
        name="a", status="trained", learner="linear", bag="b", modalities=("left",),
        artifact=ArtifactRef(uri=str(store), sha256="0"), predicted_seconds=predicted, seconds=seconds,
        predicted_bytes=4e8, peak_bytes=500_000_000,
    )  # fmt: skip


def test_the_cost_model_is_scored(store: Path) -> None:
    from scipy.stats import spearmanr

    predicted, actual = np.array([1.0, 2.0, 4.0, 8.0, 3.0]), np.array([1.5, 2.0, 12.0, 10.0, 1.0])
    found = CostScore.of([report(p, a, store) for p, a in zip(predicted, actual, strict=True)])
    assert found is not None
    assert found.seconds_ratio == pytest.approx(np.median(actual / predicted))
    assert found.rank_correlation == pytest.approx(spearmanr(predicted, actual).statistic)
    assert found.seconds_within_twofold == pytest.approx(3 / 5)
    assert found.memory_ratio == pytest.approx(1.25)


def test_there_is_no_score_without_learners_and_no_correlation_of_two(store: Path) -> None:
    assert CostScore.of([]) is None
    two = CostScore.of([report(1.0, 1.0, store), report(2.0, 3.0, store)])
    assert two is not None
    assert two.rank_correlation is None
