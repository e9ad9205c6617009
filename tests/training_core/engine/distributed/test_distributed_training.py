"""Two processes train as one does, go on from each other's snapshots, stop together, and end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rank_programs import train

from training_core.data.streams.batching import Batching
from training_core.engine.distributed import DistributedConfig, Ranks, launch, process_group
from training_core.errors import ConfigError, DataError, TransientError

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow
CASES: list[dict[str, Any]] = [
    {"strategy": "ddp"},
    {"strategy": "zero3"},
    {"strategy": "ddp", "dtype": "float64", "accumulation": 3, "num_rows": 51, "weighted": True},
    {"strategy": "zero1", "dtype": "float64", "accumulation": 2, "num_rows": 51, "frozen": True},
    {"strategy": "zero2", "dtype": "float64", "accumulation": 3, "num_rows": 51, "frozen": True},
    {"strategy": "zero3", "dtype": "float64", "accumulation": 2, "num_rows": 51, "weighted": True},
    {"strategy": "ddp", "dtype": "float64", "averaged": True},
    {"strategy": "zero2", "dtype": "float64", "averaged": True},
]
STRATEGIES = ["ddp", "zero1", "zero3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts")


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    arguments = {"cases": CASES, "strategies": STRATEGIES, "folder": str(folder)}
    return launch("rank_programs:everything", 2, arguments, timeout_seconds=60)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[" ".join(map(str, case.values())) for case in CASES])
def test_two_ranks_train_as_one_process_does(told: dict[str, Any], number: int) -> None:
    found, bound = told["equal"][number], 1e-12 if CASES[number].get("dtype") == "float64" else 1e-6
    assert found["moved"] > 0.1
    assert found["weights"] <= bound
    assert found["metrics"] <= bound
    assert all(found["names"])
    assert found["best_epoch"][0] == found["best_epoch"][1]
    assert found["ranks agree"], "all ranks end with the same weights"


@pytest.mark.parametrize("number", range(len(STRATEGIES)), ids=STRATEGIES)
def test_a_training_goes_on_on_as_many_ranks_on_fewer_and_on_more(told: dict[str, Any], number: int) -> None:
    found = told["resumed"][number]
    assert found["where"] == [18, True], "the snapshot is taken within an epoch, at the end of a window of 3 batches"
    assert found["same bits on 2"]
    assert found["from 2 to 1"] <= 1e-12
    assert found["from 1 to 2"] <= 1e-12


def test_a_snapshot_in_parts_goes_on_on_two_ranks_and_on_one(told: dict[str, Any]) -> None:
    found = told["parts"]
    assert found["same bits on 2"]
    assert found["from 2 to 1"] <= 1e-12
    assert {"checksums.json", "rest.pt", "parts/.metadata", "parts/__0_0.distcp", "parts/__1_0.distcp"} == set(
        found["files"]
    )


def test_a_changed_table_of_contents_is_refused_before_it_is_read(told: dict[str, Any], folder: Path) -> None:
    first, second = told["parts"]["damaged"]
    assert first == second
    assert ".metadata" in first
    assert not (folder / "owned").exists(), "what the pickle would have run was not run"


def test_when_one_rank_stops_all_stop_after_the_same_batch(told: dict[str, Any]) -> None:
    assert told["stopped"] == ["16: time is up"] * 2


@pytest.mark.parametrize("compression", ["fp16", "powersgd"])
def test_compressed_gradients_still_train(told: dict[str, Any], compression: str) -> None:
    losses = told[compression]
    assert losses[-1] < 0.2 * losses[0]


def test_a_row_that_is_not_finite_ends_training_on_all_ranks_and_its_rank_is_named(told: dict[str, Any]) -> None:
    first, second = told["errors"]["diverge"]
    assert first == second
    assert first.startswith("DivergenceError: model: after epoch 1 loss had stopped being finite, first on rank 1 at")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("rows", "DataError: the number of batches in an epoch: rank 0 has 10, rank 1 has 5;"),
        (
            "metrics",
            "metrics of the epoch: rank 0 has nothing that the other has not, rank 1 has cross_entropy, extra;",
        ),
        ("model", "ConfigError: the parameters of the model: rank 0 has blocks.0.weight (5×3) torch.float32,"),
    ],
)
def test_ranks_that_were_started_differently_say_how_they_differ(told: dict[str, Any], what: str, words: str) -> None:
    first, second = told["errors"][what]
    assert first == second
    assert words in first


def test_a_killed_rank_ends_the_training_with_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="rank 1 of 2 was killed by SIGKILL, and the other ranks were ended; run"):
        launch("rank_programs:fail", 2, {"how": "killed", "folder": str(tmp_path)}, timeout_seconds=60)
    assert time.time() - (tmp_path / "killed").stat().st_mtime < 10, "seconds, not the time ranks wait for each other"
    assert not any(is_alive(pid) for pid in pids_in(tmp_path))


@pytest.mark.nightly
@pytest.mark.slow
def test_a_trainer_in_a_launched_function_joins_its_ranks() -> None:
    assert launch("rank_programs:train_with_trainer", 2, timeout_seconds=60) == {"epochs": 2, "ranks": 2}


@pytest.mark.nightly
@pytest.mark.slow
def test_what_a_rank_raises_is_raised_with_its_rank(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rank 1 of 2: a shard cannot be read"):
        launch("rank_programs:fail", 2, {"how": "raises", "folder": str(tmp_path)}, timeout_seconds=60)


@pytest.mark.nightly
@pytest.mark.slow
def test_no_rank_outlives_a_killed_launcher(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "training_core.engine.distributed", "--ranks", "2", "rank_programs:linger"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[3])])}
    launcher = subprocess.Popen([*arguments, json.dumps({"folder": str(tmp_path)})], env=environment)
    try:
        wait_until(lambda: len(pids_in(tmp_path)) == 2, 60)
    finally:
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in pids_in(tmp_path)), 10)


SCRIPT = """
import os, sys, signal
from rank_programs import EndsAt, Hook, train
from training_core.engine.distributed import process_group
with process_group(timeout_seconds=60) as ranks:
    kills = "--kill" in sys.argv and ranks.rank == 1
    weights, history = train(ranks, num_rows=48, hooks=(EndsAt(5, "killed") if kills else Hook(),))
    if ranks.writes:
        print(f"{ranks}: {history.epochs[-1]['training/loss']:.9f}")
"""


@pytest.mark.nightly
@pytest.mark.slow
def test_the_same_script_runs_alone_and_by_torchrun(tmp_path: Path) -> None:
    alone = run_script(tmp_path, [])
    both = run_script(tmp_path, ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"])
    assert alone.stdout.startswith("rank 0 of 1: "), alone.stderr
    assert both.stdout.startswith("rank 0 of 2: "), both.stderr
    losses = [float(run.stdout.split(": ")[1]) for run in (alone, both)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.nightly
@pytest.mark.slow
def test_torchrun_ends_when_a_rank_is_killed_and_the_other_says_that_it_was_lost(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    started = time.monotonic()
    result = run_script(tmp_path, torchrun, "--kill")
    assert result.returncode != 0
    assert time.monotonic() - started < 60
    assert "SIGKILL" in result.stderr


def test_a_process_that_nobody_started_with_others_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group(device="cpu") as ranks:
        assert ranks == Ranks()
        assert ranks.alone
        assert ranks.writes
        assert ranks.first_of_all("stop") == "stop"
        assert ranks.texts_of_all("é") == ["é"]


def test_alone_training_is_plain_training_bit_for_bit_and_goes_on(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dropout": 0.3, "accumulation": 2, "num_rows": 150, "epochs": 2}
    plain, told = train(Ranks(), **options)
    saved: list[dict[str, Any]] = []
    weights, history = train(Ranks(), **options, saved=saved)
    resumed, again = train(Ranks(), **options, saved=[], resume=saved[0])
    assert saved[0]["state"]["in_epoch"]
    assert history == told == again
    assert all(plain[name].equal(weights[name]) and plain[name].equal(resumed[name]) for name in plain)


@pytest.mark.parametrize(
    ("how", "epochs"),
    [
        ({"save_seconds": 0.0}, [1, 2, 3, 4, 5]),
        ({"save_seconds": 3600.0}, [5]),
        ({"save_seconds": 3600.0, "save_epochs": 2}, [2, 4, 5]),
        ({"save_seconds": 0.0, "save_epochs": 2}, [2, 4, 5]),
    ],
)
def test_snapshots_are_taken_at_the_ends_of_the_epochs_that_were_asked_for(
    how: dict[str, Any], epochs: list[int]
) -> None:
    saved: list[dict[str, Any]] = []
    train(Ranks(), epochs=5, saved=saved, **how)
    assert [snapshot["state"]["epoch"] for snapshot in saved] == epochs


def test_nobody_else_imports_torch_distributed() -> None:
    package = HERE.parents[3] / "training_core"
    users = {path.parent.name for path in package.rglob("*.py") if "torch.distributed" in path.read_text()}
    assert users == {"distributed"}


def test_an_incomplete_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(ConfigError, match="WORLD_SIZE is 2, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set"),
        process_group(),
    ):
        raise AssertionError("not reached")


def test_a_batch_is_shared_equally_or_refused() -> None:
    shared = Ranks(rank=1, world_size=4).batching(Batching(32, seed=3))
    assert (shared.batch_size, shared.rank, shared.world_size, shared.seed) == (8, 1, 4, 3)
    with pytest.raises(ConfigError, match="batches of 30 rows cannot be shared equally by 4 ranks"):
        Ranks(rank=1, world_size=4).batching(Batching(30))


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="`compression` is for ddp and zero1; got fp16 with zero3"):
        DistributedConfig(strategy="zero3", compression="fp16")
    with pytest.raises(ConfigError, match=r"expected 'package.module:function' and at least 1 rank"):
        launch("rank_programs.everything", 2)


def run_script(folder: Path, launcher: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[3])])}
    command = [sys.executable, *launcher, str(folder / "script.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def pids_in(folder: Path) -> list[int]:
    return [int(text) for path in folder.glob("*.pid") if (text := path.read_text())]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(holds: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)
