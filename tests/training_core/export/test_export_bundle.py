"""A bundle as those meet it who get it: its files, its script, what it refuses."""

import csv
import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.training_core.export.exported_learners import CONFIGS, LEARNERS, TASKS, ensemble_of, fitted
from tests.training_core.export.small_ensemble import make_ensemble, small_samples, small_spec
from training_core.artifacts import open_published, verify_published
from training_core.data.frames import frame_from_samples, samples_from_frame
from training_core.errors import ConfigError, GateError
from training_core.export import bundle as bundle_module
from training_core.export.bundle import export_bundle
from training_core.export.bundle_pages import requirements
from training_core.export.parity import TOLERANCE, as_answers, check_parity, load_runtime
from training_core.export.probing import probe_samples, some_missing
from training_core.export.served_ensemble import predictions_frame
from training_core.schema import patterns_to_judge
from training_core.selection.ensemble import Ensemble

SPEC = small_spec()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return make_ensemble(tmp_path_factory.mktemp("ensemble"), SPEC)


@pytest.fixture(scope="module")
def exported(published, tmp_path_factory):
    """A bundle in every format, tests leave it as it is: (report, folder)."""
    out = tmp_path_factory.mktemp("exported") / "small"
    report = export_bundle(published, out, ("safetensors", "pt2"), small_samples(SPEC))
    return report, out


def run(folder: Path, *arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess:
    return subprocess.run(
        [python, "-E", "-s", str(folder / "inference.py"), *arguments],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )


def difference(said, wanted, units=None) -> float:
    return max(float(np.abs(said[name] - wanted[name]).max()) for name in ("values", "confidence"))


def test_requirements_are_pinned_and_few():
    lines = requirements().splitlines()
    assert {line.partition("==")[0] for line in lines} >= {"numpy", "onnxruntime"}
    assert all("==" in line and "+" not in line for line in lines) and len(lines) <= 8
    assert not any(line.startswith(("torch", "onnx==", "scikit", "pandas")) for line in lines)


def test_probes_are_like_the_rows_and_the_same_each_time():
    task = TASKS["classification"]
    learners = [fitted(LEARNERS[kind](), task) for kind in ("linear", "tabular_mlp")]
    spec = small_spec(task).model_copy(update={"modalities": fitted_spec(learners)})
    words = {("review", "words"): {"good": 1, "bad": 2}}
    first = probe_samples(spec, learners, words, 200)
    again = probe_samples(spec, learners, words, 200)
    assert spec.names == tuple(first.inputs)
    for name in spec.names:
        assert (first.inputs[name] == again.inputs[name])[~pd.isna(first.inputs[name])].all()
    mean = np.array(learners[0].preprocessor.states["vec"].mean)
    std = 1 / np.array(learners[0].preprocessor.states["vec"].scale)
    assert (np.abs(np.median(first.inputs["vec"], axis=0) - mean) < 0.5 * std).all()
    assert np.isnan(first.inputs["meta"][:, 0]).any() and not np.isnan(first.inputs["meta"]).all(axis=1).any()
    assert any("good" in text for text in first.inputs["review"])
    shown = some_missing(first).availability()
    assert shown[0].all() and not shown[1].any() and 0.4 < shown.mean() < 0.8


def fitted_spec(learners):
    known = {m.name: m for learner in learners for m in learner.input_spec.modalities}
    return tuple(known.values())


def test_answers_that_differ_are_refused(published):
    ensemble = Ensemble.load(published.path)
    samples = small_samples(SPEC, 40).take(slice(12, 40))  # those that have everything

    def exact(part):
        return as_answers(ensemble.predict(part))

    def off(part):
        answer = as_answers(ensemble.predict(part))
        if not part.available["vec"].any():
            answer["values"] = answer["values"] + 2 * TOLERANCE
        return answer

    parity = check_parity("ONNX", ensemble, exact, samples, difference)
    assert parity.difference <= 1e-12
    assert [p.available for p in parity.patterns[:-1]] == [
        "+".join(n for n in SPEC.names if n in pattern) for pattern in patterns_to_judge(SPEC.names)
    ]
    with pytest.raises(GateError, match=r"2e-05 with meta\+review available.*nothing was published"):
        check_parity("ONNX", ensemble, off, samples, difference)


def test_one_row_at_a_time_has_to_agree_too(published):
    ensemble = Ensemble.load(published.path)

    def wrong_alone(part):
        answer = as_answers(ensemble.predict(part))
        return answer | {"values": answer["values"] + (0.1 if len(part) == 1 else 0.0)}

    with pytest.raises(GateError, match="vec"):
        check_parity("ONNX", ensemble, wrong_alone, small_samples(SPEC, 20), difference)


def test_nothing_is_there_after_an_export_that_failed(published, tmp_path, monkeypatch):
    def broken(graph, tensors, path):
        path.write_bytes(b"not a model")

    monkeypatch.setattr(bundle_module, "write_onnx", broken)
    with pytest.raises(Exception, match=r"(?i)model|protobuf"):
        export_bundle(published, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_and_an_unknown_format_are_refused(published, tmp_path):
    with pytest.raises(ConfigError, match="is there already"):
        export_bundle(published, tmp_path)
    with pytest.raises(ConfigError, match="'torchscript' is no export format"):
        export_bundle(published, tmp_path / "out", ("torchscript",))


@pytest.mark.slow
def test_the_bundle_is_whole_and_agrees_in_every_format(exported):
    report, out = exported
    verify_published(open_published(out))
    assert report.sha256 == open_published(out).sha256
    assert report.formats == ("onnx", "pt2", "safetensors")
    assert [one.format for one in report.parity] == ["ONNX", "pt2"]
    assert all(one.difference <= TOLERANCE and len(one.patterns) == 8 for one in report.parity)
    files = {"model.onnx", "model.pt2", "inference.py", "bundle_inputs.py", "bundle.json", "golden.npz", "README.md"}
    assert files | {"MODEL_CARD.md", "requirements.txt", "Dockerfile", "export.json"} <= {f.name for f in out.iterdir()}
    assert Ensemble.load(out / "ensemble").predict(small_samples(SPEC, 10)).values.shape == (10, 3)


@pytest.mark.slow
def test_the_script_checks_and_answers_by_itself(exported, published, tmp_path):
    _, out = exported
    assert run(out, "--check").returncode == 0
    samples = small_samples(SPEC, 30, seed=4)
    frame = frame_from_samples(samples, SPEC)
    frame.drop(columns=[f"vec_{i}" for i in range(4)]).to_csv(tmp_path / "rows.csv", index=False)
    done = run(out, str(tmp_path / "rows.csv"), "--output", str(tmp_path / "answers.csv"))
    assert done.returncode == 0, done.stderr
    read = samples_from_frame(frame.drop(columns=[f"vec_{i}" for i in range(4)]), SPEC)
    expected = predictions_frame(SPEC.task, Ensemble.load(published.path).predict(read))
    found = pd.read_csv(tmp_path / "answers.csv", keep_default_na=False)
    assert list(found) == list(expected)
    assert found["prediction"].tolist() == expected["prediction"].tolist()
    assert found["prediction_set"].tolist() == expected["prediction_set"].tolist()
    for column in ("confidence", "probability_yes", "num_learners"):
        np.testing.assert_allclose(found[column], expected[column], atol=TOLERANCE)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"age": 40, "city": "Köln", "body": "good fine"}) + "\n")
    done = run(out, str(tmp_path / "rows.jsonl"))
    assert len(list(csv.DictReader(done.stdout.splitlines()))) == 1
    np.savez(tmp_path / "rows.npz", vec=samples.inputs["vec"], review=samples.inputs["review"].astype(str))
    assert len(run(out, str(tmp_path / "rows.npz")).stdout.splitlines()) == 31


@pytest.mark.slow
def test_input_that_cannot_be_used_is_one_line_and_code_2(exported, tmp_path):
    _, out = exported
    (tmp_path / "rows.csv").write_text("colour\nred\n")
    hostile = np.empty(1, dtype=object)
    hostile[0] = {"a": 1}
    np.savez(tmp_path / "rows.npz", vec=hostile)  # holds a pickle
    for name in ("rows.csv", "rows.npz", "none.csv", "rows.txt"):
        done = run(out, str(tmp_path / name))
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, name


@pytest.mark.slow
@pytest.mark.parametrize("how", ["changed", "missing", "other checksums", "outside"])
def test_a_bundle_that_was_tampered_with_is_refused(exported, tmp_path, how):
    report, out = exported
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    arguments = ["--check", "--sha256", report.sha256]
    if how == "changed":
        content = bytearray((copy / "model.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (copy / "model.onnx").write_bytes(content)
    elif how == "missing":
        (copy / "golden.npz").unlink()
    else:
        sums = json.loads((copy / "checksums.json").read_text())
        sums |= {"../other": "0"} if how == "outside" else {"README.md": "0"}
        (copy / "checksums.json").write_text(json.dumps(sums))
        arguments = arguments[:1] if how == "outside" else arguments
    done = run(copy, *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert {"changed": "changed", "missing": "missing", "outside": "outside"}.get(how, "expected") in done.stderr


@pytest.mark.slow
def test_a_wrong_model_with_right_checksums_fails_the_golden_rows(exported, tmp_path):
    _, out = exported
    runtime = load_runtime(out)
    loaded = runtime.Bundle(out)
    assert loaded.check() <= TOLERANCE
    answer = loaded.predict
    loaded.predict = lambda *given: {n: v + 1e-3 if n == "values" else v for n, v in answer(*given).items()}
    with pytest.raises(runtime.BundleError, match="golden rows"):
        loaded.check()


@pytest.mark.nightly
@pytest.mark.slow
def test_the_script_runs_where_only_its_requirements_are_installed(exported, tmp_path):
    _, out = exported
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", out / "requirements.txt"], check=True)
    listed = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    assert sorted(listed.split()) == sorted((out / "requirements.txt").read_text().split())
    done = run(out, "--check", python=str(python))
    assert done.returncode == 0, done.stderr


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_every_kind_of_learner_can_be_exported(kind, tmp_path):
    task = TASKS["classification"]
    published = ensemble_of(tmp_path, {"one": fitted(CONFIGS[kind], task, num_rows=120)}, task)
    (parity,) = export_bundle(published, tmp_path / "out").parity
    assert parity.difference <= TOLERANCE
