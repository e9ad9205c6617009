"""How a group is trained: the rule on made-up figures, the memory on disk, and one real measurement."""

import json
import multiprocessing
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from stack_world import TASK, SmallNet, cohort_rows, weights
from torch import Tensor, nn

from training_core.artifacts import machine_cache
from training_core.engine.cohort import choice
from training_core.engine.cohort.choice import FormChoice, choose_form, decide, time_steps
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.objectives import Supervised

CONFIGS = [OptimizerConfig(kind="adamw", lr=0.01 * (k + 1)) for k in range(4)]


def choose(nets: list[Any], memory: Path, **settings: Any) -> FormChoice:
    batch = cohort_rows(len(nets), 0)
    return choose_form(nets, batch, Supervised(TASK), CONFIGS[: len(nets)], memory=memory, **settings)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"sequential": 1.0, "stacked": 0.5}, "stacked"),
        ({"sequential": 1.0, "stacked": 1.1}, "sequential"),
        ({"sequential": 1.0, "stacked": 0.98}, "sequential"),  # 3 % are not worth it
        ({"sequential": 1.0, "stacked": 0.96}, "stacked"),
        ({"sequential": 4.0, "stacked": 1.0, "compiled": 0.98}, "stacked"),
        ({"sequential": 4.0, "stacked": 1.0, "compiled": 0.7}, "compiled"),
        ({"sequential": 4.0, "stacked": 1.0, "graphed": 0.1, "compiled": 0.1}, "graphed"),
    ],
)
def test_the_simplest_form_near_the_fastest_is_chosen(seconds: dict[str, float], expected: str) -> None:
    chosen = decide(seconds)
    assert chosen == expected
    assert min(seconds.values()) / seconds[chosen] >= 0.97


def test_times_are_medians_of_rounds_that_take_turns() -> None:
    now, turns = [0.0], []

    def step(name: str, taken: Callable[[], float]) -> Callable[[], None]:
        def run() -> None:
            turns.append(name)
            now[0] += taken()

        return run

    draws = iter([1.0] * 3 + [1.0, 1.0, 9.0, 1.0, 1.0])  # a neighbour disturbs one round
    ways = {"one": [step("one", lambda: next(draws))], "two": [step("two", lambda: 2.0), step("two", lambda: 3.0)]}
    found = time_steps(ways, lambda: now[0])
    assert found == {"one": 1.0, "two": 5.0}
    assert turns[9:15] == ["one", "two", "two", "one", "two", "two"]


def test_a_real_group_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    nets = [SmallNet(seed, dropout=0.2) for seed in range(4)]
    before, random = [weights(net).clone() for net in nets], torch.get_rng_state()
    found = choose(nets, tmp_path)
    assert set(found.seconds_per_step) == {"sequential", "stacked"}
    assert found.form == decide(found.seconds_per_step)
    assert found.form == "stacked" and "as fast as one by one" in found.reason
    assert all(torch.equal(weights(net), old) for net, old in zip(nets, before, strict=True))
    assert torch.equal(torch.get_rng_state(), random)


def test_a_choice_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nets = [SmallNet(seed) for seed in range(2)]
    first = choose(nets, tmp_path)
    monkeypatch.setattr(choice, "time_steps", lambda *_: pytest.fail("measured again"))
    assert choose([SmallNet(seed) for seed in (5, 6)], tmp_path) == first
    assert len(list(tmp_path.iterdir())) == 1


def test_what_the_speed_depends_on_is_measured_anew(tmp_path: Path) -> None:
    choose([SmallNet(0), SmallNet(1)], tmp_path)
    choose([SmallNet(0), SmallNet(1), SmallNet(2)], tmp_path)
    choose([SmallNet(seed, extra=[nn.Linear(12, 12)]) for seed in range(2)], tmp_path)
    choose([SmallNet(0), SmallNet(1)], tmp_path, precision="bf16")
    assert len(list(tmp_path.iterdir())) == 4


def test_the_first_who_measured_is_right(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "key.json"
    first, second = FormChoice("stacked", {"stacked": 1.0}, "first"), FormChoice("sequential", {}, "second")
    assert choice._remember(file, first) == first
    assert choice._remember(file, second) == first
    assert [path.name for path in file.parent.iterdir()] == ["key.json"]


def remember(file: str, number: int, found: Any) -> None:
    found.put(choice._remember(Path(file), FormChoice("stacked", {"stacked": float(number)}, str(number))).reason)


def test_processes_that_measure_at_once_decide_alike(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    found: Any = context.Queue()
    workers = [context.Process(target=remember, args=(str(tmp_path / "key.json"), n, found)) for n in range(4)]
    for worker in workers:
        worker.start()
    reasons = {found.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(reasons) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"form": "magic", "seconds_per_step": {}, "reason": ""}', "null"])
def test_a_torn_file_is_replaced(tmp_path: Path, content: str) -> None:
    file = tmp_path / "key.json"
    file.write_text(content)
    assert choice._recall(file) is None
    kept = FormChoice("stacked", {"stacked": 0.5}, "measured")
    assert choice._remember(file, kept) == kept == choice._recall(file)
    assert json.loads(file.read_text())["form"] == "stacked"


def test_without_a_place_to_write_the_choice_holds_for_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = choose([SmallNet(0), SmallNet(1)], tmp_path / "file")
    assert found.form in ("sequential", "stacked")


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine_cache() / "forms" == tmp_path / "polychoir" / "forms"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert machine_cache() / "forms" == tmp_path / ".cache" / "polychoir" / "forms"


class Undecided(SmallNet):
    def forward(self, inputs: Any, available: Tensor) -> Tensor:
        values = self.layers(inputs["x"])
        return -values if values.sum() > 0 else values


class Counting(SmallNet):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, inputs: Any, available: Tensor) -> Tensor:
        self.seen = self.get_buffer("seen") + 1
        return super().forward(inputs, available)


@pytest.mark.parametrize(
    ("nets", "reason"),
    [
        ([SmallNet(0)], "one learner only"),
        ([SmallNet(0, extra=[nn.ELU(1.0)]), SmallNet(1, extra=[nn.ELU(0.5)])], "differs from net 0"),
        ([SmallNet(seed, extra=[nn.BatchNorm1d(12)]) for seed in range(2)], "running statistics"),
        ([Undecided(0), Undecided(1)], "a stack does not work: .*data-dependent control flow"),
        ([Counting(0), Counting(1)], "training changes the buffer 'seen'"),
    ],
)
def test_what_cannot_be_stacked_is_trained_one_by_one_and_says_why(
    nets: list[nn.Module], reason: str, tmp_path: Path
) -> None:
    found = choose(deepcopy(nets), tmp_path)
    assert found.form == "sequential"
    assert found.reason and re.search(reason, found.reason)


class Hindered(SmallNet):
    """Fails as long as something stands in its way."""

    error: Exception | None = None

    def forward(self, inputs: Any, available: Tensor) -> Tensor:
        if Hindered.error is not None:
            raise Hindered.error
        return super().forward(inputs, available)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), OSError(24, "Too many open files")],
)
def test_what_passes_is_not_remembered(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hindered, "error", error)
    nets = [Hindered(0), Hindered(1)]
    found = choose(nets, tmp_path)
    assert found.form == "sequential" and "a stack does not work" in found.reason
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Hindered, "error", None)
    assert choose(nets, tmp_path).seconds_per_step
    assert len(list(tmp_path.iterdir())) == 1


def test_other_code_measures_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose([SmallNet(0), SmallNet(1)], tmp_path)
    monkeypatch.setattr(choice, "core_fingerprint", lambda: "other")
    choose([SmallNet(0), SmallNet(1)], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_compiling_is_tried_only_where_training_is_long_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def compiled(self: Any, stacked: float, clock: Any) -> tuple[float, float]:
        tried.append(1)
        return 0.1 * stacked, 60.0

    monkeypatch.setattr(choice._Group, "_compiled", compiled)
    nets = [SmallNet(0), SmallNet(1)]
    short = choose(nets, tmp_path, total_steps=10)
    assert set(short.seconds_per_step) == {"sequential", "stacked"}
    assert short.form == "sequential"  # ten steps do not make up for tracing
    found = choose(nets, tmp_path, total_steps=10**9)
    assert tried == [1]
    assert found.form == "compiled"
