"""Which rows a model has seen, told by the version it was trained on, whatever that version did with them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from training_core.campaigns.evaluation.subject import fresh_rows, judged_rows, seen_rows, training_version
from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.data.storage.store import Dataset, DatasetStore, Described
from training_core.selection.ensemble import Ensemble
from training_core.selection.manifest import EnsembleManifest


def world(store: Path, split: Sequence[str], groups: Sequence[str] | None = None) -> Dataset:
    """A data set of as many rows as there are parts."""
    number = len(split)
    label = np.array(["up", "down"] * number)[:number]
    return create_dataset_from_arrays(
        "world",
        {"vec": np.random.default_rng(0).normal(size=(number, 2))},
        label,
        task="classification",
        store=store,
        groups=groups,
        split=split,
        quality={"accept": ["*"]},
    )


def split_otherwise(store: Path, base: Dataset, split: Sequence[str]) -> Dataset:
    """The same rows as a version on the side."""
    described = Described(base.spec, tuple(base.manifest["target_names"]), np.asarray(split, object), {})
    return DatasetStore(store / "datasets").publish(base.name, None, described, base=base, make_latest=False)


def trained_on(dataset: Dataset) -> Ensemble:
    """A model that says it was."""
    manifest = EnsembleManifest(
        name="world", spec=dataset.spec, members=(), patterns=(), prior=(0.5, 0.5), dataset=dataset.ref
    )
    return Ensemble(manifest, dataset.path)


TRAIN, TEST, ASIDE = ["train"], ["test"], ["quarantined"]


def test_rows_that_the_cut_of_a_retraining_sets_aside_have_been_seen_by_learners_that_were_kept(tmp_path):
    latest = world(tmp_path, TRAIN * 40 + TEST * 20)
    cut = split_otherwise(tmp_path, latest, ASIDE * 30 + TRAIN * 20 + TEST * 10)
    model = trained_on(cut)
    seen = seen_rows(model, latest)
    assert seen is not None
    assert np.flatnonzero(~seen).tolist() == list(range(50, 60))
    for which, left_out in (("unseen", 50), ("test", 10)):
        rows, found, checked = judged_rows(model, latest, which)
        assert (rows.tolist(), found, checked) == (list(range(50, 60)), left_out, True)


def test_the_version_a_model_was_trained_on_is_found_or_nobody_can_say(tmp_path):
    latest, datasets = world(tmp_path, TRAIN * 10 + TEST * 10), DatasetStore(tmp_path / "datasets")
    model = trained_on(latest)
    found = training_version(model, datasets)
    assert found is not None
    assert found.ref == latest.ref
    for ref, nothing in (("world@000000000000", True), ("", False), ("elsewhere@1", False)):
        other = Ensemble(model.manifest.model_copy(update={"dataset": ref}), model.folder)
        assert training_version(other, datasets) is None
        seen = seen_rows(other, latest)
        assert seen is None if nothing else (seen is not None and not seen.any())


def recurring(store: Path, new: Sequence[str]) -> tuple[Dataset, tuple[Ensemble, Ensemble]]:
    """Rows of new groups and of `old` came in after a champion; the challenger's cut set earlier ones of `old` aside.

    Rows 0-59 are of `base`, 60-99 and the last 20 of `old`, 100-109 of `spare`, and what is between of `new`.
    """
    before = ["base"] * 60 + ["old"] * 40 + ["spare"] * 10
    champion = trained_on(world(store, TRAIN * 100 + TEST * 10, before))
    latest = world(store, TRAIN * 100 + TEST * 10 + TRAIN * (len(new) + 20), [*before, *new, *["old"] * 20])
    cut = split_otherwise(store, latest, TRAIN * 60 + ASIDE * 40 + TRAIN * 10 + TEST * (len(new) + 20))
    return latest, (champion, trained_on(cut))


NEW = [f"new-{row % 8}" for row in range(60)]


def test_new_rows_of_groups_that_one_has_been_trained_on_judge_nobody_where_others_are_enough(tmp_path):
    latest, models = recurring(tmp_path, NEW)
    found = fresh_rows(models, latest, "unseen")
    assert found.positions.tolist() == list(range(110, 170))
    assert (found.left_out, found.of_known_groups, found.checked) == (130, 0, True)


@pytest.mark.parametrize("few", [NEW[:49], ["new-0", "new-1", "new-2"] * 20], ids=["rows", "groups"])
def test_where_too_few_other_rows_or_groups_remain_all_judge_and_that_is_said(tmp_path, few):
    latest, models = recurring(tmp_path, few)
    found = fresh_rows(models, latest, "unseen")
    assert found.positions.tolist() == list(range(110, 130 + len(few)))
    assert (found.left_out, found.of_known_groups) == (110, 20)


@pytest.mark.parametrize("groups", [None, ["old"] * 100 + ["new"] * 80])
def test_rows_without_groups_or_with_groups_of_their_own_are_all_fresh(tmp_path, groups):
    latest = world(tmp_path, TRAIN * 100 + TEST * 80, groups)
    found = fresh_rows((trained_on(latest),), latest, "test")
    assert (len(found.positions), found.left_out, found.of_known_groups) == (80, 0, 0)
