"""Where groups train: what is refused at once, and what is told of a group that nobody could hear."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from factories import small_run

from tasks import executors
from tasks.executors import executor_of, is_remote, see, started
from training_core.artifacts import publish_directory
from training_core.campaigns.dispatch import news_of
from training_core.data.splitting.bags import Bag
from training_core.errors import ConfigError, TransientError
from training_core.jobs import Cohort, DatasetRef, Job, JobReport, job_directory
from training_core.learners import LinearConfig
from training_core.recipes import MultimodalConfig


def test_an_address_without_an_executor_is_refused(tmp_path: Path) -> None:
    run = small_run("world", cluster="tcp://host:8786")
    with pytest.raises(ConfigError, match="set `executor` to dask or ray"), executor_of(run, tmp_path):
        pass


@pytest.mark.parametrize("executor", ["dask", "ray"])
def test_an_executor_that_is_not_installed_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str
) -> None:
    monkeypatch.setattr(executors, "find_spec", lambda name: None)
    run = small_run("world", executor=executor)
    assert is_remote(run)
    with pytest.raises(ConfigError, match=rf"pip install 'polychoir\[{executor}\]'"), executor_of(run, tmp_path):
        pass


def test_a_worker_that_does_not_reach_the_server_says_which(tmp_path: Path) -> None:
    (tmp_path / "driver").write_text("token")
    assert see(str(tmp_path), "token", None).problem == ""
    with pytest.raises(ConfigError, match=r"Prefect server at http://127\.0\.0\.1:9/api .*PREFECT_API_URL"):
        see(str(tmp_path), "token", "http://127.0.0.1:9/api")


def test_a_cluster_that_does_not_end_in_order_costs_no_run_that_is_done(caplog: pytest.LogCaptureFixture) -> None:
    @contextmanager
    def runner() -> Iterator[None]:
        try:
            yield
        finally:
            raise TimeoutError("a worker is still there")

    with started(runner()):
        pass
    assert "TimeoutError: a worker is still there" in caplog.text
    with pytest.raises(ConfigError, match="the run itself failed"), started(runner()):
        raise ConfigError("the run itself failed")


def job(name: str, seed: int) -> Job:
    return Job(
        name=name,
        recipe=MultimodalConfig(learner=LinearConfig()),
        dataset=DatasetRef(root="/data", name="world", version="1f3a", fingerprint="1f3a" * 16),
        subset=Bag(
            name="b", modalities=("vec",), sampling="bootstrap", row_fraction=1, feature_fraction=1, seed=0, row_seed=0
        ),
        seed=seed,
    )


def report(name: str, status: str) -> JobReport:
    return JobReport.model_validate({"name": name, "status": status, "learner": "linear", "bag": "b", "modalities": ()})


def test_what_a_second_try_found_was_trained_and_what_was_there_before_is_reused(tmp_path: Path) -> None:
    before, during, lost = job("before", 0), job("during", 1), job("lost", 2)
    with publish_directory(job_directory(before, tmp_path, "cuda")) as folder:
        (folder / "report.json").write_text(report("before", "trained").to_json())
    news = news_of(Cohort(name="group", jobs=(before, during, lost)), tmp_path)
    told = news([report("before", "reused"), report("during", "reused"), report("lost", "failed")])
    assert [(event["job"], event["event"]) for event in told] == [
        ("before", "reused"),
        ("during", "finished"),
        ("lost", "failed"),
    ]
    assert news(TransientError("the worker was killed")) == []
