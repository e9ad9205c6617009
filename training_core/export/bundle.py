"""An ensemble as a folder that answers anywhere numpy and ONNX Runtime do.

<out>/model.onnx          the whole ensemble: preprocessing, learners, weights and calibration per pattern
<out>/inference.py        answers with it, alone; bundle_inputs.py reads what it is given
<out>/bundle.json         modalities, tensors, task; vocabulary.json: pieces of texts by their numbers
<out>/golden.npz          rows that nobody has, and what the ensemble answers
<out>/README.md …         MODEL_CARD.md, requirements.txt, Dockerfile, export.json
<out>/model.pt2           if asked for: the same graph for torch.export.load
<out>/triton/             if asked for: a model repository for NVIDIA Triton; see `export.triton`
<out>/ensemble/           if asked for: the ensemble itself, weights as safetensors, for this library
<out>/checksums.json      SHA-256 of every file
"""

import json
import shutil
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from training_core.artifacts import CHECKSUMS, ArtifactRef, file_sha256, open_published, publish_directory
from training_core.config import Config, canonical_json
from training_core.data.frames import columns_by_modality
from training_core.errors import ConfigError
from training_core.export.bundle_pages import dockerfile, model_card, readme, requirements
from training_core.export.bundled.bundle_inputs import BundleInputs
from training_core.export.graph import EnsembleGraph, make_graph
from training_core.export.onnx_graph import export_program, write_onnx
from training_core.export.parity import (
    Parity,
    answer_units,
    as_answers,
    check_parity,
    load_runtime,
    plain_arrays,
)
from training_core.export.probing import probe_samples, some_missing
from training_core.export.triton import write_repository
from training_core.quantities import NonNegativeInt
from training_core.schema import Samples
from training_core.selection.ensemble import Ensemble

ExportFormat = Literal["onnx", "pt2", "safetensors", "triton"]
FORMATS: tuple[ExportFormat, ...] = ("onnx", "pt2", "safetensors", "triton")
PROBE_ROWS = 256
GOLDEN_ROWS = 24
_TRACED_ROWS = 5
_RUNTIME = Path(__file__).with_name("bundled")


class ExportReport(Config):
    """What an export came to."""

    folder: str
    sha256: str
    """Of its `checksums.json`, which pins every file: to be handed over by another way than the bundle itself."""
    formats: tuple[ExportFormat, ...]
    parity: tuple[Parity, ...]
    """One for each format that answers by itself."""
    learners: tuple[str, ...]
    """Those that can have a say, which are in it."""
    num_bytes: NonNegativeInt
    seconds: float


def export_bundle(
    ensemble: ArtifactRef, out: Path, formats: Collection[ExportFormat] = ("onnx",), samples: Samples | None = None
) -> ExportReport:
    """Write a published ensemble as a bundle to the folder `out`, which appears whole or not at all.

    Args:
        ensemble: its published directory.
        out: must not be there yet.
        formats: in any order; ONNX is always among them, for that is what the bundle answers with.
        samples: raw ones to compare answers on, beside those that are drawn; their targets are not looked at.

    Raises:
        ConfigError: `out` is there, a format is unknown, packages are missing, or a learner cannot be exported.
        GateError: the bundle does not answer like the ensemble; nothing was published.
        StorageError: the ensemble does not read back, or `out` cannot be written.
    """
    began = time.monotonic()
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ConfigError(f"'{unknown[0]}' is no export format; expected some of {', '.join(FORMATS)}")
    if out.exists():
        raise ConfigError(f"{out} is there already; give a folder that is not, or remove it")
    chosen: tuple[ExportFormat, ...] = tuple(name for name in FORMATS if name == "onnx" or name in formats)
    loaded = Ensemble.load(ensemble.path)
    graph = make_graph(loaded)
    learners = [loaded.learner(member.name) for member in graph.members]
    probe = probe_samples(loaded.spec, learners, graph.vocabularies, PROBE_ROWS)  # pyright: ignore[reportArgumentType]
    with publish_directory(out) as folder:
        description = _describe(loaded, graph)
        _write_json(folder / "bundle.json", description)
        pieces = {".".join(key): list(own) for key, own in graph.vocabularies.items()}
        if pieces:
            _write_json(folder / "vocabulary.json", pieces)
        inputs = BundleInputs(description, pieces)
        tensors = _tensors(graph, inputs, some_missing(probe.take(slice(0, _TRACED_ROWS))), loaded)
        write_onnx(graph, tensors, folder / "model.onnx")
        for file in ("inference.py", "bundle_inputs.py"):
            shutil.copyfile(_RUNTIME / file, folder / file)
        _write_golden(folder / "golden.npz", loaded, some_missing(probe.take(slice(0, GOLDEN_ROWS)), seed=1))
        if "triton" in chosen:
            write_repository(folder, loaded.name)
        if "safetensors" in chosen:
            shutil.copytree(ensemble.path, folder / "ensemble")
        (folder / "requirements.txt").write_text(requirements())
        (folder / "Dockerfile").write_text(dockerfile(sys.version_info[:2]))
        rows = probe if samples is None else _together(probe, samples)
        found = [_onnx_parity(folder, loaded, rows)]
        if "pt2" in chosen:
            torch.export.save(export_program(graph, tensors, tree_nodes=False), folder / "model.pt2")
            found.append(_pt2_parity(folder, graph, inputs, loaded, rows))
        _write_json(folder / "export.json", {"ensemble": ensemble.sha256, "parity": [p.model_dump() for p in found]})
        (folder / "README.md").write_text(readme(loaded, description, chosen))
        (folder / "MODEL_CARD.md").write_text(model_card(loaded, graph.members, found, len(rows)))
        (folder / CHECKSUMS).unlink()
    published = open_published(out)
    return ExportReport(
        folder=str(out.resolve()),
        sha256=published.sha256,
        formats=chosen,
        parity=tuple(found),
        learners=tuple(member.name for member in graph.members),
        num_bytes=_bytes_on_disk(out),
        seconds=time.monotonic() - began,
    )


def _bytes_on_disk(folder: Path) -> int:
    """Bytes of the files in a folder; one that has several names counts once."""
    found = [file.stat() for file in folder.rglob("*") if file.is_file()]
    return sum({(one.st_dev, one.st_ino): one.st_size for one in found}.values())


def _describe(ensemble: Ensemble, graph: EnsembleGraph) -> dict[str, Any]:
    """`bundle.json`."""
    spec, columns = ensemble.spec, columns_by_modality(ensemble.spec)
    return {
        "name": ensemble.name,
        "dataset": ensemble.manifest.dataset,
        "task": spec.task.model_dump(mode="json"),
        "coverage": ensemble.coverage,
        "modalities": [
            {**modality.model_dump(mode="json", include={"name", "kind", "shape", "columns"})}
            | {"flat_columns": columns[modality.name]}
            for modality in spec.modalities
        ],
        "inputs": [
            {
                "name": given.name,
                "modality": given.modality,
                "holds": given.holds,
                "dtype": given.dtype,
                "shape": list(given.shape),
                "analyzer": given.analyzer,
            }
            for given in graph.inputs
        ],
        "outputs": list(graph.output_names),
        "units": answer_units(ensemble),
    }


def _tensors(graph: EnsembleGraph, inputs: BundleInputs, samples: Samples, ensemble: Ensemble) -> list[torch.Tensor]:
    held = inputs.hold(plain_arrays(samples, ensemble.spec), samples.available)
    fed = inputs.feed(held, slice(None))
    return [torch.from_numpy(np.ascontiguousarray(fed[name])) for name in graph.input_names]


def _write_golden(path: Path, ensemble: Ensemble, samples: Samples) -> None:
    arrays: dict[str, np.ndarray] = {f"mask/{name}": mask for name, mask in samples.available.items()}
    for name, values in plain_arrays(samples, ensemble.spec).items():
        if isinstance(values, Mapping):
            arrays |= {f"in/{name}/{column}": own for column, own in values.items()}
        else:
            arrays[f"in/{name}"] = values
    arrays |= {f"out/{name}": values for name, values in as_answers(ensemble.predict(samples)).items()}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _onnx_parity(folder: Path, ensemble: Ensemble, rows: Samples) -> Parity:
    """The bundle as its user will load it: its own script, its checksums, its model."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    sums = {file.relative_to(folder).as_posix(): file_sha256(file) for file in files}
    (folder / CHECKSUMS).write_text(canonical_json(sums))
    runtime = load_runtime(folder)
    bundle = runtime.Bundle(folder)
    bundle.check()

    def predict(samples: Samples) -> Mapping[str, np.ndarray]:
        return bundle.predict(plain_arrays(samples, ensemble.spec), samples.available)

    return check_parity("ONNX", ensemble, predict, rows, runtime.difference)


def _pt2_parity(folder: Path, graph: EnsembleGraph, inputs: BundleInputs, ensemble: Ensemble, rows: Samples) -> Parity:
    program = torch.export.load(folder / "model.pt2").module()

    def predict(samples: Samples) -> Mapping[str, np.ndarray]:
        with torch.inference_mode():
            said = program(*_tensors(graph, inputs, samples, ensemble))
        return {name: tensor.numpy() for name, tensor in zip(graph.output_names, said, strict=True)}

    return check_parity("pt2", ensemble, predict, rows, load_runtime(folder).difference)


def _together(first: Samples, second: Samples) -> Samples:
    """Rows of both; a modality that a row of `second` lacks is missing there, whatever is hidden besides."""
    return Samples(
        inputs={name: np.concatenate([values, second.inputs[name]]) for name, values in first.inputs.items()},
        available={name: np.concatenate([mask, second.available[name]]) for name, mask in first.available.items()},
        ids=np.array([str(i) for i in range(len(first) + len(second))], dtype=object),
    )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
