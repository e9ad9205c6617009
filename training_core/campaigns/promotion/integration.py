"""Whether a version may be built into something: its status, its files, what it needs, and what it has to reach."""

import importlib.metadata
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np

from training_core.campaigns.evaluation.subject import ModelRef, find_model, training_run, training_settings
from training_core.config import Config
from training_core.data.frames import frame_columns, frame_from_samples, samples_from_frame
from training_core.errors import GateError, PolychoirError
from training_core.evaluation.gates import GateConfig, check_gates
from training_core.schema import DataSpec, Samples, patterns_to_judge
from training_core.selection.ensemble import Ensemble
from training_core.tracking.registry import ModelVersion, open_registry

CheckKind = Literal["status", "compatibility", "performance"]
_REQUIREMENTS = "requirements.txt"
_SEED = 0


class IntegrationCheck(Config):
    """One thing that was looked at."""

    kind: CheckKind
    name: str
    passed: bool
    message: str


class IntegrationReport(Config):
    """Everything that was looked at, and whether the version may be used."""

    model: str
    """`models:/name/version`."""
    sha256: str
    checks: tuple[IntegrationCheck, ...]

    @property
    def ready(self) -> bool:
        """Whether every check was passed."""
        return all(check.passed for check in self.checks)

    def require(self) -> None:
        """Go on only when it is ready.

        Raises:
            GateError: a check failed; all that did are named.
        """
        missed = [f"{check.name}: {check.message}" for check in self.checks if not check.passed]
        if missed:
            raise GateError(f"{self.model} may not be integrated: {'; '.join(missed)}")


def prepare_for_integration(
    model: str, store: Path, gates: GateConfig | None = None, export: bool = False
) -> IntegrationReport:
    """Look at a registered version before it is built into something.

    Status: registered by Polychoir, not retired, its files those that were registered. Compatibility: the installed
    libraries are those it was made with, and it answers made-up rows under every availability pattern with finite
    numbers, given as a table as users give them. Performance: the gates, on the figures of its own run. With `export`
    it is also written as a bundle, which is compared with it (needs the extra `export`), and thrown away.

    Args:
        model: `models:/name/3`, `name@champion` or a name (its latest version).
        store: folder of everything.
        gates: what it must reach; by default the gates of its own run, where the store has a record of it.
        export: whether to try an export as well.

    Raises:
        ConfigError: there is no such version.
        StorageError: the registry does not answer, or its files are gone or damaged.
    """
    version = open_registry(("mlflow",), store).find(model)
    found = find_model(version.uri, store)
    ensemble = found.load()
    checks = [
        *_status(version, found),
        *_requirements(found),
        _answers(ensemble),
        *_performance(version, found, store, gates),
        *([_export(found)] if export else []),
    ]
    return IntegrationReport(model=version.uri, sha256=found.artifact.sha256, checks=tuple(checks))


def _status(version: ModelVersion, found: ModelRef) -> list[IntegrationCheck]:
    known = version.sha256 is not None
    words = "its files are those that were registered" if known else "it was registered by other means, without hash"
    place = ", ".join(version.aliases) or "it has no alias"
    state = f"retired: {version.why_retired}" if version.retired else place
    return [
        IntegrationCheck(kind="status", name="in use", passed=not version.retired, message=state),
        IntegrationCheck(kind="status", name="files", passed=known, message=f"{words} ({found.artifact.sha256[:12]})"),
    ]


def _requirements(found: ModelRef) -> list[IntegrationCheck]:
    """What the package lists against what is installed; nothing where it has no list."""
    lists = [folder / _REQUIREMENTS for folder in found.artifact.path.parents[:3]]
    listed = next((path.read_text().splitlines() for path in lists if path.is_file()), None)
    if listed is None:
        return []
    odd = []
    for line in listed:
        name, equals, wanted = line.partition("==")
        if not equals:
            continue
        try:
            installed = importlib.metadata.version(name.strip()).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            installed = "none"
        if installed != wanted.strip():
            odd.append(f"{name} {wanted.strip()} (installed: {installed})")
    message = f"made with {', '.join(odd)}" if odd else f"{len(listed)} libraries as it was made with"
    return [IntegrationCheck(kind="compatibility", name="libraries", passed=not odd, message=message)]


def _answers(ensemble: Ensemble) -> IntegrationCheck:
    """Made-up rows, one per pattern, as a table and back: every answer finite, probabilities in order."""
    patterns = patterns_to_judge(ensemble.spec.names)
    try:
        samples = _made_up(ensemble.spec, patterns)
        answer = ensemble.predict(samples_from_frame(frame_from_samples(samples, ensemble.spec), ensemble.spec))
        sums = answer.values.sum(axis=1)
        sound = bool(np.isfinite(answer.values).all() and np.isfinite(answer.confidence).all())
        if ensemble.task.kind == "classification":
            sound = sound and bool(np.allclose(sums, 1.0))
        columns = len(frame_columns(ensemble.spec))
        message = f"answers under {len(patterns)} patterns of {columns} columns" if sound else "answers are not numbers"
    except PolychoirError as error:
        sound, message = False, str(error)
    return IntegrationCheck(kind="compatibility", name="answers", passed=sound, message=message)


def _made_up(spec: DataSpec, patterns: list[frozenset[str]]) -> Samples:
    """One row of noise per pattern."""
    random, num = np.random.default_rng(_SEED), len(patterns)
    inputs: dict[str, np.ndarray] = {}
    for modality in spec.modalities:
        if modality.kind == "text":
            inputs[modality.name] = np.array(["a few words"] * num, dtype=object)
        elif modality.kind == "tabular":
            inputs[modality.name] = np.zeros((num, len(modality.columns)))
        else:
            inputs[modality.name] = random.random((num, *modality.shape))
    available = {name: np.array([name in pattern for pattern in patterns]) for name in spec.names}
    return Samples(inputs=inputs, available=available, ids=np.arange(num).astype(str).astype(object))


def _performance(
    version: ModelVersion, found: ModelRef, store: Path, gates: GateConfig | None
) -> list[IntegrationCheck]:
    """The gates, on what is known of its training; those that need more than that are left out."""
    run, settings = training_run(found.artifact, store), training_settings(found.artifact, store)
    if gates is None:
        gates = settings.gates if settings else GateConfig()
    figures: dict[str, float | None] = {"size_mb": version.size_bytes / 1e6 if version.size_bytes else None}
    figures["score"] = version.scores.get(version.metric or "")
    if "ece" in version.scores:
        figures["calibration_error"] = version.scores["ece"]
    figures["pattern_score"] = min((one.score for one in run.patterns), default=None) if run else None
    results = check_gates(gates, figures)
    measured = figures["score"] is not None
    told = f"{version.metric} {figures['score']:.4f} on its own test split" if measured else "its scores are not known"
    return [
        IntegrationCheck(kind="performance", name="measured", passed=measured, message=told),
        *(IntegrationCheck(kind="performance", name=r.gate, passed=r.passed, message=r.message) for r in results),
    ]


def _export(found: ModelRef) -> IntegrationCheck:
    """A bundle on trial."""
    from training_core.export.bundle import export_bundle

    try:
        with tempfile.TemporaryDirectory() as folder:
            report = export_bundle(found.artifact, Path(folder) / "bundle")
        worst = max(one.difference for one in report.parity)
        passed, message = True, f"at most {worst:.2g} away from the model under every pattern"
    except PolychoirError as error:
        passed, message = False, str(error)
    return IntegrationCheck(kind="compatibility", name="export", passed=passed, message=message)
