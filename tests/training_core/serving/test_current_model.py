import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from training_core.errors import ConfigError, StorageError
from training_core.selection.ensemble import Ensemble
from training_core.serving.current import CurrentModel, check_answers


class Shelf:
    """A source whose name can be pointed at other versions."""

    def __init__(self, **versions: Ensemble | Exception) -> None:
        self.versions = versions
        self.pointer: str | Exception = next(iter(versions))
        self.loads: list[str] = []
        self.before_load: Callable[[], object] = lambda: None

    def newest(self) -> str:
        if isinstance(self.pointer, Exception):
            raise self.pointer
        return self.pointer

    def load(self, uri: str) -> Ensemble:
        self.loads.append(uri)
        self.before_load()
        found = self.versions[uri]
        if isinstance(found, Exception):
            raise found
        return found


def test_it_changes_when_its_name_stands_for_another_version(ensemble: Ensemble, regression: Ensemble):
    shelf = Shelf(one=ensemble, two=regression)
    current = CurrentModel(shelf)
    assert (current.now.uri, current.now.ensemble) == ("one", ensemble)
    assert not current.refresh() and shelf.loads == ["one"]
    shelf.pointer = "two"
    assert current.refresh()
    assert (current.now.uri, current.now.ensemble, current.problem) == ("two", regression, None)
    assert current.num_changes == 1


def test_the_old_one_answers_until_the_new_one_is_read(ensemble: Ensemble, regression: Ensemble):
    shelf, reading, go_on = Shelf(one=ensemble, two=regression), threading.Event(), threading.Event()
    current = CurrentModel(shelf)
    shelf.before_load = lambda: (reading.set(), go_on.wait(30))
    shelf.pointer = "two"
    current.follow(0.01)
    assert reading.wait(30) and current.now.uri == "one"
    go_on.set()
    deadline = time.monotonic() + 30
    while current.now.uri != "two" and time.monotonic() < deadline:
        time.sleep(0.01)
    current.stop()
    assert current.now.uri == "two"


@pytest.mark.parametrize("failure", [StorageError("file 'x' is changed"), RuntimeError("secret detail")])
def test_a_version_that_fails_leaves_the_old_one_and_is_not_tried_all_the_time(ensemble: Ensemble, failure: Exception):
    shelf = Shelf(one=ensemble, two=failure)
    current = CurrentModel(shelf)
    shelf.pointer = "two"
    assert not current.refresh() and not current.refresh()
    assert shelf.loads == ["one", "two"] and current.now.uri == "one" and current.num_failures == 1
    assert current.problem is not None and "two cannot be served" in current.problem
    assert "secret detail" not in current.problem
    shelf.pointer = "one"
    assert not current.refresh() and current.problem is None


def test_a_third_version_is_tried_at_once_after_the_second_failed(ensemble: Ensemble, regression: Ensemble):
    shelf = Shelf(one=ensemble, two=StorageError("torn"), three=regression)
    current = CurrentModel(shelf)
    shelf.pointer = "two"
    current.refresh()
    shelf.pointer = "three"
    assert current.refresh() and current.now.uri == "three" and current.problem is None


def test_a_registry_that_does_not_answer_is_a_problem_and_no_end(ensemble: Ensemble):
    shelf = Shelf(one=ensemble)
    current = CurrentModel(shelf)
    shelf.pointer = StorageError("the registry does not answer")
    assert not current.refresh()
    assert current.now.uri == "one" and "the registry does not answer" in str(current.problem)
    shelf.pointer = "one"
    current.refresh()
    assert current.problem is None


def test_what_no_one_foresaw_does_not_end_the_looks_for_new_versions(ensemble: Ensemble, regression: Ensemble):
    shelf = Shelf(one=ensemble, two=regression)
    current = CurrentModel(shelf)
    shelf.pointer = KeyError("secret detail")
    assert not current.refresh()
    assert "KeyError" in str(current.problem) and "secret detail" not in str(current.problem)
    shelf.pointer = "two"
    assert current.refresh() and current.problem is None


def test_it_does_not_begin_without_a_model():
    with pytest.raises(ConfigError, match="no such"):
        CurrentModel(Shelf(one=ConfigError("no such model")))


def test_a_model_whose_answers_are_no_numbers_is_not_served(ensemble: Ensemble, tmp_path):
    class Broken:
        def usable(self, available):
            return np.ones(len(next(iter(available.values()))), bool)

        def predict(self, samples):
            return np.full((len(samples), 3), np.nan)

    check_answers(ensemble)
    broken = Ensemble(
        ensemble.manifest, ensemble.folder, learners={member.name: Broken() for member in ensemble.members}
    )
    with pytest.raises(StorageError, match="numbers that are none"):
        check_answers(broken)
    with pytest.raises(StorageError):
        check_answers(Ensemble(ensemble.manifest, tmp_path))  # its learners are gone
