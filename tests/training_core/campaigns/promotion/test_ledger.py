import os
import resource
import signal
import stat

import pytest
from registered_versions import contest

from training_core.campaigns.promotion.ledger import (
    Action,
    Ledger,
    LedgerEntry,
    open_intent,
    recorded_champion,
    succession,
)
from training_core.errors import ConfigError, StorageError


def entry(version: int | None = 1, action: Action = "promoted", **changes: object) -> LedgerEntry:
    told: dict[str, object] = {"stage": "done", "action": action, "model": "shoes", "version": version}
    if action in {"first", "promoted", "rolled-back", "moved"}:
        told["aliases"] = {"champion": version}
    return LedgerEntry.parse({**told, **changes}, "test")


def test_what_is_appended_is_read_back(tmp_path):
    ledger = Ledger(tmp_path, "shoes")
    assert ledger.entries() == ()
    odd = contest().model_copy(update={"champion_score": float("nan"), "metric": "r2\n{}"})
    written = [entry(why="two\nlines, ünïcode"), entry(2, contest=contest()), entry(3, "refused", contest=odd)]
    for one in written:
        ledger.append(one)
    read = ledger.entries()
    assert read[:2] == tuple(written[:2])
    assert read[2].contest is not None
    assert str(read[2].contest.champion_score) == "nan"
    assert ledger.path == tmp_path / "registry" / "shoes" / "ledger.jsonl"
    assert len(ledger.path.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("torn", [b"{", b'{"id": "1", "sta', b"\0" * 40])
def test_a_torn_last_line_counts_for_nothing_and_is_cut_off(tmp_path, torn):
    ledger = Ledger(tmp_path, "shoes")
    ledger.append(entry(1))
    with ledger.path.open("ab") as file:
        file.write(torn)
    assert [one.version for one in ledger.entries()] == [1]
    ledger.append(entry(2))
    assert [one.version for one in ledger.entries()] == [1, 2]
    assert torn not in ledger.path.read_bytes().split(b"\n")


def test_a_torn_first_line_counts_for_nothing(tmp_path):
    ledger = Ledger(tmp_path, "shoes")
    ledger.path.parent.mkdir(parents=True)
    ledger.path.write_bytes(b'{"id":')
    assert ledger.entries() == ()
    ledger.append(entry(1))
    assert [one.version for one in ledger.entries()] == [1]


def test_a_line_changed_from_outside_is_named(tmp_path):
    ledger = Ledger(tmp_path, "shoes")
    for version in (1, 2, 3):
        ledger.append(entry(version))
    lines = ledger.path.read_text().splitlines(keepends=True)
    ledger.path.write_text(lines[0] + '{"hello": 1}\n' + lines[2])
    with pytest.raises(StorageError, match="line 2 does not read back"):
        ledger.entries()


@pytest.mark.parametrize(
    "name", ["../shoes", "..", ".", "", "a/b", "a\0b", "a\nb", "x" * 101, "-rf", "ünï", "a b", "~"]
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot be a model's name"):
        Ledger(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_ledger_as_it_was(tmp_path):
    ledger = Ledger(tmp_path, "shoes")
    ledger.append(entry(1))
    before = ledger.path.read_bytes()
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))  # twenty bytes of the next line fit
    try:
        with pytest.raises(StorageError, match="no space left"):
            ledger.append(entry(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handled)
    assert ledger.path.read_bytes() == before
    ledger.append(entry(2))
    assert [one.version for one in ledger.entries()] == [1, 2]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    ledger = Ledger(tmp_path, "shoes")
    ledger.append(entry(1))
    ledger.path.chmod(stat.S_IRUSR)
    with pytest.raises(StorageError, match="cannot write"):
        ledger.append(entry(2))


def test_a_writer_killed_within_a_line_costs_only_that_line(tmp_path):
    """Killed between the two halves of a write, as a kernel may do to a long one."""
    ledger = Ledger(tmp_path, "shoes")
    ledger.append(entry(1))
    child = os.fork()
    if not child:
        with ledger.locked(), ledger.path.open("ab", buffering=0) as file:
            file.write(entry(2).model_dump_json().encode()[:50])
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with ledger.locked():  # the kernel has freed it
        ledger.append(entry(3))
    assert [one.version for one in ledger.entries()] == [1, 3]


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    ledger = Ledger(tmp_path, "shoes")
    children = []
    for number in range(4):
        children.append(os.fork())
        if not children[-1]:
            for turn in range(25):
                with ledger.locked():
                    ledger.append(entry(100 * number + turn, why="x" * 3000))
            os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    found = [one.version for one in ledger.entries()]
    assert sorted(found) == sorted(100 * number + turn for number in range(4) for turn in range(25))


def test_an_intent_is_open_until_it_is_done():
    intent = entry(2, stage="intent")
    assert open_intent([entry(1), intent]) == intent
    assert open_intent([entry(1), intent, intent.completed()]) is None
    assert recorded_champion([entry(1), intent]) == 1
    assert recorded_champion([entry(1), intent, intent.completed()]) == 2
    assert recorded_champion([]) is None


@pytest.mark.parametrize(
    ("decisions", "line"),
    [
        ([], ()),
        ([(1, "first"), (2, "promoted"), (3, "promoted")], (1, 2, 3)),
        ([(1, "first"), (2, "refused"), (3, "promoted")], (1, 3)),
        ([(1, "first"), (2, "promoted"), (3, "promoted"), (2, "rolled-back")], (1, 2)),
        ([(1, "first"), (2, "promoted"), (3, "promoted"), (2, "rolled-back"), (1, "rolled-back")], (1,)),
        ([(1, "first"), (2, "promoted"), (5, "rolled-back")], (1, 5)),
        ([(1, "first"), (2, "promoted"), (1, "rolled-back"), (3, "promoted")], (1, 3)),
        ([(1, "first"), (2, "promoted"), (3, "promoted"), (2, "retired")], (1, 3)),
        ([(1, "first"), (4, "moved"), (5, "promoted")], (1, 4, 5)),
        ([(1, "first"), (None, "moved"), (2, "first")], (1, 2)),
    ],
)
def test_the_succession_forgets_whoever_was_rolled_back(decisions, line):
    assert succession([entry(version, action) for version, action in decisions]) == line
