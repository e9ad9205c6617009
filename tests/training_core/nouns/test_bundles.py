"""Parts of a bundle come out as they were packed, or not at all."""

import json
from pathlib import Path

import pytest

from training_core.artifacts import is_published, open_published, publish_directory, verify_published
from training_core.artifacts.bundles import drop_unpacked, unpack


def packed(store: Path, text: str = "hello") -> Path:
    with publish_directory(store / "stacks" / "both") as bundle:
        for name in ("one", "two"):
            (bundle / name / "learner").mkdir(parents=True)
            (bundle / name / "learner" / "weights").write_text(f"{text} from {name}")
            (bundle / name / "report.json").write_text("{}")
    return store / "stacks" / "both"


def damage(bundle: Path, kind: str) -> None:
    weights = bundle / "one" / "learner" / "weights"
    if kind == "changed":
        weights.write_text("hellO from one")
    elif kind == "missing":
        weights.unlink()
    else:
        (bundle / "one" / "more").write_text("x")


def test_parts_are_unpacked_with_the_checksums_they_were_packed_with(tmp_path: Path) -> None:
    bundle = packed(tmp_path)
    listed = json.loads((bundle / "checksums.json").read_text())
    assert unpack(tmp_path / "stacks", tmp_path / "jobs" / "one")
    found = json.loads((tmp_path / "jobs" / "one" / "checksums.json").read_text())
    assert {f"one/{name}": digest for name, digest in found.items()}.items() <= listed.items()
    assert (tmp_path / "jobs" / "one" / "learner" / "weights").read_text() == "hello from one"
    verify_published(open_published(tmp_path / "jobs" / "one"))
    assert drop_unpacked(tmp_path / "stacks", tmp_path / "jobs") == 0, "the other one is needed"
    assert not unpack(tmp_path / "stacks", tmp_path / "jobs" / "three")


@pytest.mark.parametrize("kind", ["changed", "missing", "unexpected"])
def test_a_damaged_part_is_not_published_and_the_others_are(tmp_path: Path, kind: str) -> None:
    damage(packed(tmp_path), kind)
    stacks, jobs = tmp_path / "stacks", tmp_path / "jobs"
    assert not unpack(stacks, jobs / "one")
    assert not is_published(jobs / "one")
    assert unpack(stacks, jobs / "two")
    verify_published(open_published(jobs / "two"))
    assert drop_unpacked(stacks, jobs) == 1, "nothing of use is left in it"


def test_a_bundle_with_a_damaged_part_does_not_stand_in_the_way_of_a_new_one(tmp_path: Path) -> None:
    damage(packed(tmp_path), "changed")
    assert not unpack(tmp_path / "stacks", tmp_path / "jobs" / "one")
    packed(tmp_path, "again")
    for name in ("one", "two"):
        assert unpack(tmp_path / "stacks", tmp_path / "jobs" / name)
        assert (tmp_path / "jobs" / name / "learner" / "weights").read_text() == f"again from {name}"
