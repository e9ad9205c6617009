"""From choices to jobs, and from jobs to groups in which those that can train together are together."""

import importlib.metadata
from collections import Counter
from pathlib import Path

import pytest
from factories import small_run, write_source

from training_core.campaigns import bagging
from training_core.campaigns.bagging import plan_cohorts
from training_core.campaigns.grouping import likely_stacks
from training_core.errors import ConfigError
from training_core.jobs import Cohort, Job
from training_core.objectives import LOSSES, FocalLoss


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("world"), num_rows=160)


def jobs_of(store: Path, source: Path, net_copies: int, draws: int = 1, **changes: object) -> list[Job]:
    run = small_run(
        source,
        bags={"num_bags": 6, "num_row_draws": draws},
        learners={"learners_per_bag": 2, "include": ("linear", "tabular_mlp"), "net_copies": net_copies},
        **changes,
    )
    ref = bagging.resolve_dataset(run.dataset, store)
    return list(bagging.plan_training(run, ref, bagging.bags_of(run, ref)).jobs)


def parts(cohorts: tuple[Cohort, ...]) -> Counter[tuple[str, int]]:
    """How many nets of each choice each group has."""
    return Counter(
        (job.name.partition("#")[0], number)
        for number, cohort in enumerate(cohorts)
        for job in cohort.jobs
        if "tabular_mlp" in job.name
    )


def test_a_chosen_net_becomes_several_jobs_and_an_estimator_one(store: Path, source: Path) -> None:
    names = Counter(job.name.partition("#")[0] for job in jobs_of(store, source, net_copies=4))
    assert {count for name, count in names.items() if name.endswith("linear")} == {1}
    assert {count for name, count in names.items() if name.endswith("tabular_mlp")} == {4}


def test_copies_differ_in_seed_and_take_turns_with_the_draws_of_rows(store: Path, source: Path) -> None:
    copies = [job for job in jobs_of(store, source, 4, draws=2) if job.name.startswith("bag-03/tabular_mlp")]
    assert len({job.seed for job in copies}) == len({job.subset.seed for job in copies}) == 4
    draws = [job.subset.row_seed for job in copies]
    assert draws[0] == draws[2] != draws[1] == draws[3]
    assert len({job.subset.modalities for job in copies}) == 1
    assert len({job.fingerprint("cpu") for job in copies}) == 4


def test_more_copies_do_not_change_the_first_ones(store: Path, source: Path) -> None:
    few, many = ({job.name: job.fingerprint("cpu") for job in jobs_of(store, source, net_copies=n)} for n in (1, 3))
    assert few.items() <= many.items()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_copies_stay_together(store: Path, source: Path, workers: int) -> None:
    jobs = jobs_of(store, source, net_copies=4)
    cohorts = plan_cohorts(jobs, workers=workers, group_size=2)
    assert set(parts(cohorts).values()) == {4}
    assert sorted(job.name for cohort in cohorts for job in cohort.jobs) == sorted(job.name for job in jobs)


def test_nets_that_differ_in_what_each_of_a_stack_may_have_its_own_of_stay_together(store: Path, source: Path) -> None:
    def changed(job: Job, learner: dict[str, object], **training: object) -> Job:
        recipe = job.recipe.model_copy(
            update={
                "learner": job.recipe.learner.model_copy(update=learner),
                "training": job.recipe.training.model_copy(update=training),
            }
        )
        return job.model_copy(update={"recipe": recipe})

    job, *_ = (job for job in jobs_of(store, source, net_copies=1) if job.name.endswith("tabular_mlp"))
    alike = [job, changed(job, {"dropout": 0.4}, lr=0.1), changed(job, {}, label_smoothing=0.1, ema_decay=0.9)]
    others = [changed(job, {"width": 8}), changed(job, {}, batch_size=8), changed(job, {}, optimizer="sgd")]
    assert [len(company) for company in likely_stacks([*alike, *others])] == [3, 1, 1, 1]


def test_eight_of_them_are_shared_out_over_two_workers_but_not_over_more(store: Path, source: Path) -> None:
    jobs = jobs_of(store, source, net_copies=8)
    assert set(parts(plan_cohorts(jobs, workers=1, group_size=2)).values()) == {8}
    assert set(parts(plan_cohorts(jobs, workers=4, group_size=1)).values()) == {4}


def test_a_group_counts_companies_not_learners(store: Path, source: Path) -> None:
    cohorts = plan_cohorts(jobs_of(store, source, net_copies=4), workers=1, group_size=3)
    assert len(cohorts) == 4, "6 estimators and 6 companies of nets"


def test_nets_that_may_not_be_stacked_are_dealt_out_one_by_one(store: Path, source: Path) -> None:
    jobs = jobs_of(store, source, net_copies=3, training={"epochs": 3, "stacking": "never"})
    assert max(len(cohort.jobs) for cohort in plan_cohorts(jobs, workers=2, group_size=4)) == 4


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"loss": "nonsense"}, "unknown loss 'nonsense'"),
        ({"loss": "huber"}, "huber"),
        ({"loss": "only here"}, "'only here' is registered in this process only"),
        ({"mixup": 0.2}, "`training.mixup` is 0.2, and "),
        ({"mixup": 0.2, "loss": "focal"}, "`training.mixup` is 0.2, and "),
    ],
)
def test_settings_by_which_no_net_could_be_trained_are_refused_before_any_is(
    store: Path, source: Path, training: dict[str, object], said: str
) -> None:
    if "only here" not in LOSSES.names():
        LOSSES.register("only here", FocalLoss())
    with pytest.raises(ConfigError, match=said):
        jobs_of(store, source, net_copies=1, training=training)


def test_estimators_alone_may_have_any_settings_of_nets(store: Path, source: Path) -> None:
    run = small_run(source, learners={"include": ("linear",)}, training={"loss": "nonsense"})
    ref = bagging.resolve_dataset(run.dataset, store)
    assert bagging.plan_training(run, ref, bagging.bags_of(run, ref)).jobs


def test_balanced_classes_are_no_reason_to_refuse(store: Path, source: Path) -> None:
    assert jobs_of(store, source, net_copies=1, training={"class_weights": "balanced"})


def test_an_optimiser_of_an_extra_is_part_of_what_a_job_depends_on(
    store: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "bag-00/tabular_mlp"
    (own,) = [job for job in jobs_of(store, source, net_copies=1) if job.name == name]
    training = own.recipe.training.model_copy(update={"optimizer": "lion"})
    lion = own.model_copy(update={"recipe": own.recipe.model_copy(update={"training": training})})
    before = [job.fingerprint("cpu") for job in (own, lion)]
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.0" if name == "pytorch-optimizer" else version(name)
    )
    assert [job.fingerprint("cpu") == known for job, known in zip((own, lion), before, strict=True)] == [True, False]
