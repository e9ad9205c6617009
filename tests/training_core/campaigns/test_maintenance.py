"""What a maintenance removes, what it never does, and what is left when it is killed on the way."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from training_core.artifacts import exclusive, mark_used, open_published, publish_directory
from training_core.campaigns.maintenance import RetentionConfig, TidyReport, tidy
from training_core.campaigns.prediction import find_ensemble
from training_core.campaigns.promotion.ledger import Ledger, LedgerEntry
from training_core.errors import StorageError, TransientError

DAY = 86_400.0
USUAL = RetentionConfig()
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def own_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def aged(path: Path, days: float) -> Path:
    """The same file or folder as nobody has touched it for so many days."""
    then = time.time() - days * DAY
    for inner in [*path.rglob("*"), path] if path.is_dir() else [path]:
        os.utime(inner, (then, then))
    return path


def published(folder: Path, days: float, text: str = "weights") -> Path:
    with publish_directory(folder) as unfinished:
        (unfinished / "content.txt").write_text(text)
    return aged(folder, days)


def written(path: Path, days: float, text: str = "{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return aged(path, days)


def report_of(store: Path, run: str, ensemble: Path, days: float) -> list[Path]:
    summary = json.dumps({"ensemble": str(ensemble)})
    names = (f"{run}.html", f"{run}.json", f"{run}.settings.json")
    return [written(store / "reports" / name, days, summary if name == f"{run}.json" else "{}") for name in names]


def went(report: TidyReport) -> dict[str, tuple[str, ...]]:
    return {kind.kind: kind.names for kind in report.tidied}


def test_learners_go_when_nobody_has_used_them_for_a_while(tmp_path: Path) -> None:
    old, young = published(tmp_path / "jobs" / "old", 31), published(tmp_path / "jobs" / "young", 29)
    note = written(tmp_path / "tracking" / "learners" / "old.json", 31)
    report = tidy(tmp_path, USUAL)
    assert went(report) == {"learners": ("old",)}
    assert report.num_bytes > len("weights")
    assert not old.exists()
    assert young.exists()
    assert not note.exists(), "a learner trained anew is recorded anew"


def test_a_learner_that_is_used_again_is_as_good_as_new(tmp_path: Path) -> None:
    learner = published(tmp_path / "jobs" / "old", 400)
    mark_used(learner)
    assert went(tidy(tmp_path, USUAL)) == {}
    assert learner.exists()


def test_an_ensemble_that_is_found_by_its_folder_is_used(tmp_path: Path) -> None:
    served, other = (published(tmp_path / "ensembles" / name, 31, name) for name in ("served", "other"))
    assert find_ensemble(str(served), tmp_path)[1].path == served
    assert went(tidy(tmp_path, USUAL)) == {"ensembles": ("other",)}
    assert served.exists() and not other.exists()


def test_a_dry_run_says_the_same_and_removes_nothing(tmp_path: Path) -> None:
    kept = [
        published(tmp_path / "jobs" / "a", 31),
        published(tmp_path / "ensembles" / "b", 31),
        written(tmp_path / "given-up" / "c.json", 31),
        written(tmp_path / "locks" / "job-d.lock", 2, ""),
        *report_of(tmp_path, "r", tmp_path / "gone", 400),
    ]
    said = tidy(tmp_path, RetentionConfig(dry_run=True))
    assert all(path.exists() for path in kept)
    assert said.dry_run
    assert "would free" in said.sentence()
    done = tidy(tmp_path, USUAL)
    assert went(done) == went(said)
    assert done.num_bytes == said.num_bytes
    assert not any(path.exists() for path in kept)
    assert went(tidy(tmp_path, USUAL)) == {}


def test_the_ensemble_of_a_run_stays_as_long_as_its_report(tmp_path: Path) -> None:
    step = published(tmp_path / "ensembles" / "step", 31, "a step on the way")
    result = published(tmp_path / "ensembles" / "result", 400)
    files = report_of(tmp_path, "r", result, 100)
    profile = published(tmp_path / "profiles" / "step", 31)
    assert went(tidy(tmp_path, USUAL)) == {"profiles": ("step",), "ensembles": ("step",)}
    assert not step.exists()
    assert not profile.exists()
    assert result.exists()
    assert all(file.exists() for file in files)


def test_a_very_old_report_goes_with_its_ensemble_once_that_is_not_used(tmp_path: Path) -> None:
    unused, used = published(tmp_path / "ensembles" / "a", 400), published(tmp_path / "ensembles" / "b", 1, "other")
    report_of(tmp_path, "old", unused, 400)
    report_of(tmp_path, "used", used, 400)
    found = went(tidy(tmp_path, USUAL))
    assert found == {"reports": ("old.html", "old.json", "old.settings.json"), "ensembles": ("a",)}
    assert used.exists()


def test_what_tells_of_the_past_stays_for_a_year(tmp_path: Path) -> None:
    for days in (364, 366):
        written(tmp_path / "studies" / f"study-{days}" / "journal.log", days)
        written(tmp_path / "evaluations" / f"evaluation-{days}" / "report.html", days)
        written(tmp_path / "watch" / "shoes" / "reports" / f"window-{days}.html", days)
        for folder in (tmp_path / "studies" / f"study-{days}", tmp_path / "evaluations" / f"evaluation-{days}"):
            aged(folder, days)
    found = went(tidy(tmp_path, USUAL))
    assert found == {
        "evaluations": ("evaluation-366",),
        "studies": ("study-366",),
        "drift reports": ("window-366.html",),
    }


def test_a_study_somebody_writes_to_is_not_old(tmp_path: Path) -> None:
    journal = written(tmp_path / "studies" / "mine" / "journal.log", 1)
    aged(journal.parent, 400)
    aged(journal, 1)
    assert went(tidy(tmp_path, USUAL)) == {}


def test_checkpoints_stay_while_somebody_trains_with_them(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "unit"
    written(folder / "jobs.json", 40, json.dumps(["mine"]))
    aged(folder, 40)
    lock = tmp_path / "locks" / "job-mine.lock"
    with exclusive(lock):
        assert went(tidy(tmp_path, USUAL)) == {}
    assert went(tidy(tmp_path, USUAL)) == {"checkpoints": ("unit",)}


def test_a_held_lock_stays_and_a_free_one_goes(tmp_path: Path) -> None:
    held, free = tmp_path / "locks" / "job-held.lock", written(tmp_path / "locks" / "job-free.lock", 2, "")
    with exclusive(held):
        aged(held, 2)
        assert went(tidy(tmp_path, USUAL)) == {"locks": ("job-free.lock",)}
    assert held.exists()
    assert not free.exists()


def test_who_waits_for_a_lock_that_is_removed_shares_the_new_one(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    with exclusive(lock):
        waiting = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from pathlib import Path; from training_core.artifacts import exclusive\n"
                "print('here', flush=True)\n"
                "with exclusive(Path(sys.argv[1])): print('mine', flush=True); input()",
                str(lock),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert waiting.stdout
        assert waiting.stdout.readline() == "here\n"
        time.sleep(0.3)  # it waits for the kernel now
        lock.unlink()
    assert waiting.stdout.readline() == "mine\n"
    with pytest.raises(TransientError), exclusive(lock, wait=False):
        pass
    waiting.communicate("\n")
    assert waiting.returncode == 0


def test_leftovers_of_killed_writers_go(tmp_path: Path) -> None:
    dead = tmp_path / "jobs" / ".unfinished-x-999999999.1-abcdef01"
    dead.mkdir(parents=True)
    written(dead / "half", 1)
    aged(dead, 1)
    fresh = tmp_path / "watch" / "shoes" / ".unfinished-y-999999999.1-abcdef01"
    fresh.mkdir(parents=True)
    assert went(tidy(tmp_path, USUAL)) == {"leftovers": (dead.name,)}
    assert fresh.exists(), "on another machine its writer may live"


def test_two_at_once_are_one_too_many(tmp_path: Path) -> None:
    learner = published(tmp_path / "jobs" / "old", 31)
    with exclusive(tmp_path / "locks" / "maintenance.lock"), pytest.raises(TransientError, match="already"):
        tidy(tmp_path, USUAL)
    assert learner.exists()


def test_a_ledger_that_does_not_read_back_stops_everything(tmp_path: Path) -> None:
    written(tmp_path / "registry" / "shoes" / "ledger.jsonl", 0, "no json\n{}\n")
    learner = published(tmp_path / "jobs" / "old", 31)
    with pytest.raises(StorageError, match=r"ledger\.jsonl"):
        tidy(tmp_path, USUAL)
    assert learner.exists(), "nobody knows what is needed"


def test_a_ledger_without_the_registry_it_tells_of_stops_everything(tmp_path: Path) -> None:
    ledger, learner = Ledger(tmp_path, "shoes"), published(tmp_path / "jobs" / "old", 31)
    (tmp_path / "registry" / "boots").mkdir(parents=True)
    refused = LedgerEntry(stage="done", action="refused", model="shoes", version=2)
    ledger.append(refused)
    assert went(tidy(tmp_path, USUAL)) == {"learners": ("old",)}, "nothing was ever needed"
    learner = published(tmp_path / "jobs" / "old", 31)
    ledger.append(refused.model_copy(update={"action": "first", "aliases": {"champion": 1}, "version": 1}))
    with pytest.raises(StorageError, match=r"no registry, and the ledger of 'shoes' .* MLFLOW_TRACKING_URI"):
        tidy(tmp_path, USUAL)
    assert learner.exists(), "as on a store of a team, from a shell that does not say where its registry is"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove anything")
def test_what_cannot_be_removed_is_said_and_the_rest_goes(tmp_path: Path) -> None:
    stuck, other = published(tmp_path / "ensembles" / "stuck", 31), published(tmp_path / "jobs" / "old", 31)
    stuck.parent.chmod(0o500)
    try:
        report = tidy(tmp_path, USUAL)
    finally:
        stuck.parent.chmod(0o700)
    assert "stuck" in report.problems[0]
    assert not other.exists()


def test_no_store_is_nothing_to_do(tmp_path: Path) -> None:
    report = tidy(tmp_path / "nowhere", USUAL)
    assert report.tidied == ()
    assert report.sentence() == "nothing to remove"
    assert not (tmp_path / "nowhere").exists()


def test_free_pages_of_a_database_go_back_to_the_disk(tmp_path: Path) -> None:
    database = tmp_path / "prefect" / "prefect.db"
    database.parent.mkdir()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("create table logs (text)")
        connection.executemany("insert into logs values (?)", [("x" * 1000,)] * 2000)
        connection.commit()
        connection.execute("delete from logs where rowid > 10")
        connection.commit()
    before = database.stat().st_size
    report = tidy(tmp_path, USUAL)
    assert went(report) == {"free pages of databases": ("prefect.db",)}
    assert before - database.stat().st_size == report.num_bytes > 1_000_000
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("select count(*) from logs").fetchone() == (10,)
    assert went(tidy(tmp_path, USUAL)) == {}


_KILLED = """
import os, signal, sys
from pathlib import Path
from training_core.artifacts import directories
from training_core.campaigns.maintenance import RetentionConfig, things, tidy, tidying

removed = 0
def remove(folder, whole=directories.remove_directory):
    global removed
    if removed == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    removed += 1
    whole(folder)

things.remove_directory = tidying.remove_directory = remove
tidy(Path(sys.argv[1]), RetentionConfig())
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_killed_maintenance_leaves_no_reference_that_leads_nowhere(tmp_path: Path, after: int) -> None:
    ensemble = published(tmp_path / "ensembles" / "a", 400)
    published(tmp_path / "profiles" / "a", 400)
    report_of(tmp_path, "r", ensemble, 400)
    learner = published(tmp_path / "jobs" / "b", 400)
    note = written(tmp_path / "tracking" / "learners" / "b.json", 400)
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), str(after)], cwd=ROOT, check=False)
    assert killed.returncode == (-9 if after < 3 else 0)
    if (tmp_path / "profiles" / "a").exists() or (tmp_path / "reports" / "r.json").exists():
        assert open_published(ensemble)
    if note.exists():
        assert open_published(learner)
    tidy(tmp_path, USUAL)
    assert not any(path.exists() for path in (ensemble, learner, note))
    assert not list((tmp_path / "reports").iterdir())
