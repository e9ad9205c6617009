"""Writers killed at any moment, and others at the same moment, never let a reader see anything but whole versions."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from part_world import publish, some_contents

from training_core.data.storage.store import DatasetStore, StaleBaseError

HERE = Path(__file__).parent
ROOT = HERE.parents[3]


def survive(root: Path, num_kills: int, seed: int) -> None:
    """Let `chaos` have its way, then look at what is left."""
    command = [sys.executable, str(HERE / "chaos.py"), str(root), str(num_kills), str(seed)]
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["torn"] == []
    assert found["errors"] == []
    assert found["failed_writers"] == [], ended.stderr
    assert found["reads"] > num_kills / 2, found
    assert found["killed_mid_way"] >= num_kills / 10, found
    store = DatasetStore(root)
    for version in store.versions("shoes"):
        store.verify(store.open(f"shoes@{version}"))
    store.gc("shoes")
    assert list((root / "shoes").rglob(".unfinished-*")) == []
    listed = {p.path.name for v in store.versions("shoes") for p in store.open(f"shoes@{v}").parts}
    assert {path.name for path in (root / "shoes" / "parts").iterdir()} == listed
    assert store.gc("shoes", dry_run=True).num_bytes == 0


@pytest.mark.slow
def test_thirty_kills_leave_nothing_torn(tmp_path):
    survive(tmp_path, 30, seed=1)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_a_hundred_and_twenty_kills_leave_nothing_torn(tmp_path, seed):
    survive(tmp_path, 40, seed)


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    head = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(HERE)!r}]\n"
    head += "from pathlib import Path\nfrom part_world import publish, some_contents\n"
    head += "from training_core.data.storage.store import DatasetStore, StaleBaseError\n"
    head += "store = DatasetStore(Path(sys.argv[1]))\n"
    command = [sys.executable, "-c", head + textwrap.dedent(code), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_together(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Let processes that have printed `ready` go on at the same moment; what each printed then."""
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = []
    for process in processes:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        said.append(out.strip())
    return said


def test_two_processes_that_publish_the_same_rows_get_the_same_version(tmp_path):
    code = """
        contents = some_contents(num_rows=5000)
        print("ready", flush=True); sys.stdin.readline()
        print(publish(store, "shoes", contents).version)
    """
    versions = run_together([start(code, str(tmp_path)) for _ in range(2)])
    store = DatasetStore(tmp_path)
    assert store.versions("shoes") == (versions[0],) == (versions[1],)
    assert len(list((tmp_path / "shoes" / "parts").iterdir())) == 1


def test_of_two_appends_at_once_one_is_sent_back_and_no_row_is_lost(tmp_path):
    publish(DatasetStore(tmp_path), "shoes", some_contents())
    code = """
        import time
        from training_core.data.storage.store import Described
        import numpy as np
        base, contents, stale = store.open("shoes"), some_contents(first=int(sys.argv[2]), seed=int(sys.argv[2])), 0
        print("ready", flush=True); sys.stdin.readline()
        with store.new_part("shoes") as part:
            part.write(contents.block())
            while True:
                split = np.concatenate([base.split(), contents.split])
                try:
                    store.publish("shoes", part, Described(contents.spec, ("label",), split, {}), base=base)
                    break
                except StaleBaseError:
                    base, stale = store.open("shoes"), stale + 1
        print(stale)
    """
    sent_back = run_together([start(code, str(tmp_path), first) for first in ("100", "200")])
    assert sorted(sent_back) == ["0", "1"]
    ids = set(DatasetStore(tmp_path).open("shoes").ids())
    assert ids == {f"id {first + i}" for first in (0, 100, 200) for i in range(60)}


def test_extending_a_version_that_is_not_the_latest_is_refused(tmp_path):
    store = DatasetStore(tmp_path)
    base = publish(store, "shoes", some_contents())
    publish(store, "shoes", some_contents(first=100, seed=1), base=base)
    with pytest.raises(StaleBaseError, match="was to be extended, but the latest version is now"):
        publish(store, "shoes", some_contents(first=200, seed=2), base=base)
    assert store.gc("shoes", dry_run=True).parts == ()


def test_what_another_process_has_open_is_spared_until_it_ends(tmp_path):
    store = DatasetStore(tmp_path)
    first = publish(store, "shoes", some_contents()).version
    publish(store, "shoes", some_contents(seed=1))
    reader = start("held = store.open('shoes@' + sys.argv[2]); print('ready', flush=True); sys.stdin.readline()",
                   str(tmp_path), first)  # fmt: skip
    assert reader.stdout
    assert reader.stdout.readline() == "ready\n"
    spared = store.gc("shoes", keep=1)
    assert (spared.versions, spared.parts, spared.spared) == ((), (), (first,))
    assert np.isfinite(store.open(f"shoes@{first}").samples().inputs["vec"]).all()
    reader.send_signal(signal.SIGKILL)
    reader.communicate()
    time.sleep(0.05)
    collected = store.gc("shoes", keep=1)
    assert collected.versions == (first,)
    assert len(collected.parts) == 1
    assert collected.num_bytes > 0
