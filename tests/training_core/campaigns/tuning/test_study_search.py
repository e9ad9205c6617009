"""What a study finds: limits kept, fronts better than chance, hopeless trials ended as Optuna itself would."""

import math
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from toy_study import DEFAULT, EPOCHS, SPACE, bowl, curve_to, essence, open_study, run_study

from training_core.campaigns.tuning.config import ParamValue, TuningConfig
from training_core.campaigns.tuning.dimensions import Dimension
from training_core.campaigns.tuning.outcome import TrialOutcome
from training_core.campaigns.tuning.pruning import Foresight, looks
from training_core.campaigns.tuning.samplers import distribution_of, pruner_of, sampler_of, value_at
from training_core.campaigns.tuning.study import FirstTrial, Study
from training_core.campaigns.tuning.summary import TrialRecord, pareto_front
from training_core.errors import ConfigError

Formula = Callable[[Mapping[str, ParamValue]], tuple[float, ...]]


def _search(study: Study, formula: Formula, limit: Formula | None = None) -> tuple[TrialRecord, ...]:
    """Run a study of a formula to its end."""
    with study:
        while asked := study.ask():
            for one in asked:
                beyond = {} if limit is None else {"limit": limit(one.params)[0]}
                outcome = TrialOutcome(state="complete", values=formula(one.params), constraints=beyond)
                study.tell(one.number, outcome)
        return study.records()


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "nsga3", "random", "cmaes", "qmc"])
def test_every_sampler_stays_in_the_space_and_never_repeats_itself(tmp_path: Path, sampler: str) -> None:
    records = run_study(tmp_path / "s", trials=12, batch=3, sampler=sampler, pruner="none")
    assert dict(records[0].params) == dict(DEFAULT) and records[0].enqueued == "default"
    for record in records:
        for dimension in SPACE:
            assert dimension.is_active(record.params) == (dimension.path in record.params)
            if dimension.path in record.params:
                assert dimension.nearest(record.params[dimension.path]) == record.params[dimension.path]
    assert len({record.params["x"] for record in records}) == 12


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_samplers_that_learn_beat_chance(tmp_path: Path, sampler: str) -> None:
    space = tuple(Dimension(path=f"x{i}", kind="float", low=-5, high=5) for i in range(4))

    def sphere(params: Mapping[str, ParamValue]) -> tuple[float, ...]:
        return (sum((float(value or 0) - 1) ** 2 for value in params.values()),)

    best = {}
    for kind in (sampler, "random"):
        config = TuningConfig(trials=60, batch=4, sampler=kind, pruner="none")  # pyright: ignore[reportArgumentType]
        records = _search(Study(config, space, tmp_path / kind, 0, about="sphere"), sphere)
        best[kind] = min(record.values[0] for record in records if record.values)
    assert best[sampler] < 0.7 * best["random"]


def test_even_start_covers_every_field_evenly() -> None:
    config = TuningConfig(sampler="qmc")
    study = optuna.create_study(sampler=sampler_of(config, ["a", "b"], 0))
    distribution = optuna.distributions.FloatDistribution(0, 1)
    points = [study.ask({"a": distribution, "b": distribution}).params for _ in range(16)]
    for name in "ab":  # one point in every sixteenth: what makes a Sobol' sequence even
        assert sorted(int(16 * point[name]) for point in points) == list(range(16))


@pytest.mark.parametrize("dimension", SPACE, ids=lambda dimension: dimension.path)
def test_positions_reach_both_ends_of_a_dimension(dimension: Dimension) -> None:
    distribution = distribution_of(dimension)
    positions = np.linspace(0, 1 - 1e-12, 50)
    values = [value_at(distribution, position) for position in positions]
    assert all(dimension.nearest(value) == value for value in values)
    for value, end in zip((values[0], values[-1]), dimension.ends, strict=True):
        assert value == (end if dimension.kind == "choice" else pytest.approx(end))


def test_a_limit_is_respected_by_what_is_called_best(tmp_path: Path) -> None:
    study = open_study(tmp_path / "s", trials=24, batch=4, pruner="none")
    records = _search(study, lambda p: (bowl(p),), lambda p: (float(p["x"] or 0) + 1.0,))  # x ≤ -1
    front = pareto_front(records, study.directions)
    (best,) = [record for record in records if record.number == front[0]]
    assert best.feasible and best.params["x"] <= -1  # pyright: ignore[reportOperatorIssue]
    allowed = [record.values[0] for record in records if record.feasible and record.values]
    assert best.values == (min(allowed),)
    assert min(r.values[0] for r in records if r.values) < best.values[0], "without the limit another would be best"
    late = [record for record in records if record.number >= 12]
    assert sum(record.feasible for record in late) > len(late) / 2, "the sampler looks where the limit is kept"


def _hypervolume(values: list[tuple[float, ...]], reference: tuple[float, float] = (1.1, 11.0)) -> float:
    """Area that points [n, 2] dominate below `reference`."""
    area, height = 0.0, reference[1]
    for first, second in sorted(v for v in values if v[0] < reference[0] and v[1] < reference[1]):
        if second < height:
            area += (reference[0] - first) * (height - second)
            height = second
    return area


def test_hypervolume_counts_what_is_dominated_once() -> None:
    assert _hypervolume([(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (9.0, 9.0)], (2.0, 2.0)) == 3.0


def test_front_of_two_objectives_is_larger_than_that_of_chance(tmp_path: Path) -> None:
    """ZDT1 of three variables (Zitzler, Deb and Thiele 2000)."""
    space = tuple(Dimension(path=f"x{i}", kind="float", low=0, high=1) for i in range(3))

    def zdt1(params: Mapping[str, ParamValue]) -> tuple[float, ...]:
        first, *rest = (float(value or 0) for value in params.values())
        g = 1 + 9 * sum(rest) / len(rest)
        return first, g * (1 - math.sqrt(first / g))

    area = {}
    for kind in ("tpe", "random"):
        config = TuningConfig(trials=50, batch=5, sampler=kind, objectives=("loss", "seconds"))
        study = Study(config, space, tmp_path / kind, 0, about="zdt1")
        records = _search(study, zdt1)
        area[kind] = _hypervolume([record.values for record in records if record.values])
        front = [record for record in records if record.number in pareto_front(records, study.directions)]
        assert _hypervolume([record.values for record in front if record.values]) == pytest.approx(area[kind])
    assert area["tpe"] > area["random"]


def test_front_keeps_what_no_other_beats_in_everything() -> None:
    def record(number: int, *values: float, feasible: bool = True) -> TrialRecord:
        return TrialRecord(number=number, state="complete", params={}, values=values, feasible=feasible)

    records = (record(0, 1, 3), record(1, 2, 2), record(2, 2, 3), record(3, 0, 9, feasible=False), record(4, 2, 2))
    assert pareto_front(records, ("minimize", "minimize")) == (0, 1, 4)
    assert pareto_front(records, ("minimize", "maximize")) == (0,)
    assert pareto_front(
        tuple(r.model_copy(update={"values": r.values[:1]}) for r in records if r.values), ("maximize",)
    ) == (1,)
    assert pareto_front((), ("minimize",)) == ()


def test_it_ends_when_nothing_gets_better(tmp_path: Path) -> None:
    with open_study(tmp_path / "s", trials=50, batch=1, patience=5) as study:
        values = iter([3.0, 2.0, 4.0, 1.0, *[5.0] * 50])
        while asked := study.ask():
            study.tell(asked[0].number, TrialOutcome(state="complete", values=(next(values),)))
        assert len(study.records()) == 9 and "no better" in study.stopped


def test_it_begins_nothing_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("training_core.campaigns.tuning.study.time", SimpleNamespace(time=lambda: now[0]))
    with open_study(tmp_path / "s", trials=50, batch=2, seconds=10.0) as study:
        for one in study.ask():
            study.tell(one.number, TrialOutcome(state="complete", values=(1.0,)))
        now[0] += 10.0
        assert study.ask() == [] and "are over" in study.stopped
        assert [record.state for record in study.records()] == ["complete", "complete"]


def test_it_begins_one_trial_however_short_the_time(tmp_path: Path) -> None:
    with open_study(tmp_path / "s", trials=50, batch=2, seconds=1e-9) as study:
        assert len(study.ask()) == 1


def test_winners_it_begins_with_are_reached_at_once(tmp_path: Path) -> None:
    cold = run_study(tmp_path / "cold", trials=30, batch=3, pruner="none")
    best = min((r for r in cold if r.values), key=lambda r: r.values or ())
    first = (FirstTrial(DEFAULT, "default"), FirstTrial(best.params, "warm start"))
    with open_study(tmp_path / "warm", seed=1, first=first, trials=30, batch=3, pruner="none") as study:
        warm = _search_on(study)
    assert best.values is not None
    reached = next(r.number for r in warm if r.values and r.values[0] <= best.values[0])
    assert reached == 1 <= best.number / 2
    assert [r.enqueued for r in warm[:3]] == ["default", "warm start", ""]


def _search_on(study: Study) -> tuple[TrialRecord, ...]:
    while asked := study.ask():
        for one in asked:
            study.tell(one.number, TrialOutcome(state="complete", values=(bowl(one.params),)))
    return study.records()


@pytest.mark.parametrize("pruner", ["hyperband", "asha", "median"])
@pytest.mark.parametrize("objective", ["loss", "score"])
def test_tables_say_what_the_pruner_would_say(pruner: str, objective: str) -> None:
    """Every trial of a study run by Optuna alone is ended at the epoch its table foretold."""
    config = TuningConfig(pruner=pruner, min_epochs=1, objectives=(objective,), startup_trials=0)  # pyright: ignore[reportArgumentType]
    own, rule = pruner_of(config, EPOCHS), pruner_of(config, EPOCHS)
    assert own is not None and rule is not None
    sign = 1.0 if objective == "loss" else -1.0
    study = optuna.create_study(study_name="alone", direction="minimize" if sign > 0 else "maximize", pruner=rule)
    draws, ended = np.random.default_rng(0), set()
    for number in range(40):
        table = Foresight(study, number).give_up_table(own, number, looks(EPOCHS))
        curve = curve_to(float(draws.uniform(0, 3)))
        foretold = next((e for e, v in enumerate(curve, start=1) if v > table.get(e, math.inf)), None)
        trial = study.ask()
        actual = None
        for epoch, value in enumerate(curve, start=1):
            trial.report(sign * value, epoch)
            if trial.should_prune():
                actual = epoch
                break
        assert foretold == actual, f"trial {number}: {table}"
        ended.add(actual)
        study.tell(
            trial, None if actual else sign * curve[-1], state=optuna.trial.TrialState.PRUNED if actual else None
        )
    assert len(ended) > 1, "some are ended and some are not"


def test_what_is_known_is_copied_once_for_a_batch_and_without_what_no_pruner_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Foresight] = []

    class Counted(Foresight):
        def __init__(self, study: optuna.Study, before: int) -> None:
            super().__init__(study, before)
            copies.append(self)

    monkeypatch.setattr("training_core.campaigns.tuning.study.Foresight", Counted)
    records = run_study(tmp_path / "s", trials=12, batch=4)
    assert len(records) == 12 and len(copies) == 3
    copied = copies[-1]._study.get_trials()
    assert len(copied) == 8 and not any(trial.params or trial.user_attrs for trial in copied)
    assert all(dict(record.params) for record in records), "the study itself keeps everything"


def test_hopeless_folds_end_a_trial(tmp_path: Path) -> None:
    settings = {"trials": 2, "batch": 1, "folds": 6, "pruner": "wilcoxon"}
    with open_study(tmp_path / "s", **settings) as study:
        (first,) = study.ask()
        folds = (0.1, 0.2, 0.1, 0.3, 0.2, 0.1)
        study.tell(first.number, TrialOutcome(state="complete", values=(sum(folds) / 6,), folds=folds))
        (second,) = study.ask()
        assert second.give_up == {}
        assert not study.loses(second, [0.9])
        assert study.loses(second, [1.1, 1.2, 1.3, 1.1])
        assert not study.loses(second, [0.05, 0.1, 0.05, 0.1])


def test_pruners_look_at_every_epoch_at_first_and_at_few_later() -> None:
    assert looks(5) == (1, 2, 3, 4, 5)
    assert looks(1) == (1,)
    far = looks(200)
    assert far[:8] == tuple(range(1, 9)) and far[-1] == 200 and len(far) < 45
    assert list(far) == sorted(set(far))


def test_an_evolution_of_one_objective_is_refused_for_two() -> None:
    with pytest.raises(ConfigError, match="cmaes, which knows one objective"):
        sampler_of(TuningConfig(sampler="cmaes", objectives=("loss", "seconds")), ["x"], 0)


def test_a_server_keeps_a_study_for_several_machines(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    kept = optuna.storages.InMemoryStorage()
    server = threading.Thread(
        target=optuna.storages.run_grpc_proxy_server,
        args=(kept,),
        kwargs={"host": "localhost", "port": port},
        daemon=True,
    )
    server.start()
    settings = {"trials": 6, "batch": 2, "storage": f"grpc://localhost:{port}"}
    served = run_study(tmp_path / "a" / "s", **settings)
    assert essence(run_study(tmp_path / "b" / "s", **settings)) == essence(served), "another store, the same study"
    assert essence(served) == essence(run_study(tmp_path / "file" / "s", trials=6, batch=2))


@pytest.mark.parametrize(
    "place",
    [
        "postgresql://me:hunter2@host/db",
        "postgresql://me:hun/ter2@host/db",
        "postgresql://me:hun'ter2@host/db",
        "postgresql://me:hun ter2@host/db",
        "postgresql://me:hun&ter2@host/db",
        "postgresql://me:hun@ter2@host/db",
        "mysql://host/db?user=me&password=hunter2",
        "mysql://host/db?user=me&password='hunter2",
    ],
)
def test_a_password_is_refused_and_not_shown(place: str) -> None:
    with pytest.raises(ConfigError, match=r"PGPASSWORD.*pgpass") as error:
        TuningConfig.parse({"storage": place}, "run.yaml")
    assert "hun" not in str(error.value)
    assert "ter2" not in str(error.value)


def test_the_file_that_a_password_is_kept_in_may_be_named() -> None:
    for place in ("postgresql://me@host/db?sslmode=require", "postgresql://me@host/db?passfile=~/.pgpass"):
        assert TuningConfig.parse({"storage": place}, "run.yaml").storage == place
