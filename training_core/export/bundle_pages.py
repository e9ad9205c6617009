"""The pages and lists of a bundle: README, model card, requirements, Dockerfile."""

import importlib.metadata
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from training_core.export.parity import Parity
from training_core.selection.ensemble import Ensemble
from training_core.selection.manifest import Member

_NEEDED = ("numpy", "onnxruntime")
_MAX_LISTED = 12


def requirements() -> str:
    """What `inference.py` needs and what that needs, pinned to the versions it was checked with."""
    pinned: dict[str, str] = {}
    waiting = list(_NEEDED)
    while waiting:
        name = waiting.pop()
        if name.lower() not in pinned:
            pinned[name.lower()] = f"{name}=={importlib.metadata.version(name).partition('+')[0]}"
            wanted = importlib.metadata.requires(name) or []
            waiting += [re.split(r"[^\w.-]", one)[0] for one in wanted if "extra" not in one.partition(";")[2]]
    return "".join(f"{line}\n" for _, line in sorted(pinned.items()))


def dockerfile(python: tuple[int, ...]) -> str:
    """An image that checks the bundle when it is built, and then answers as a user without rights."""
    version = ".".join(map(str, python))
    return f"""FROM python:{version}-slim
WORKDIR /bundle
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
RUN python inference.py --check
USER nobody
ENTRYPOINT ["python", "inference.py"]
CMD ["--check"]
"""


def readme(ensemble: Ensemble, description: Mapping[str, Any], formats: Collection[str]) -> str:
    """How the bundle is used, and what goes in and comes out."""
    modalities = "\n".join(_modality_row(modality) for modality in description["modalities"])
    tensors = "\n".join(_tensor_row(given) for given in description["inputs"])
    others = {
        "pt2": '- `model.pt2`: the same graph for PyTorch, `torch.export.load("model.pt2").module()`. Loading it can'
        " run code: compare `checksums.json` with the SHA-256 you were given first.",
        "safetensors": "- `ensemble/`: the ensemble as it was trained (weights as safetensors, settings as JSON), for"
        " Polychoir.",
        "triton": "- `triton/`: a model repository for NVIDIA Triton (`tritonserver --model-repository=triton`) whose"
        " ONNX Runtime knows the operator sets above (1.20 or newer). It takes the tensors above; `BundleInputs` in"
        " `bundle_inputs.py` makes them.",
    }
    words = ", `vocabulary.json`" if any(t["holds"] == "term_ids" for t in description["inputs"]) else ""
    more = "\n".join(text for name, text in others.items() if name in formats)
    return (
        f"""# {ensemble.name}

An ensemble of Polychoir that answers whatever modalities a row lacks. It needs Python, numpy and ONNX Runtime.

```
pip install -r requirements.txt
python inference.py --check                              # every file's checksum, then rows with known answers
python inference.py rows.csv --output predictions.csv    # csv, tsv, jsonl, npz; leave out whole modalities at will
```

```python
from inference import Bundle

bundle = Bundle()                     # Bundle(sha256="…") to insist on the checksums you were given
answer = bundle.predict(arrays)       # {{modality: array}}; a row of NaN or None is missing
answer["values"], answer["confidence"], answer["num_learners"]
```

## What goes in

| modality | kind | one row | columns in a file |
|---|---|---|---|
{modalities}

An array is given whole or not at all in a row. Of a table, cells may be empty. A category that is not listed in
`bundle.json` counts as an empty cell. A row without any modality is answered with what is known without input.

## What comes out

{_outputs(ensemble)}

## The model itself

`model.onnx` (operator sets ai.onnx and ai.onnx.ml 5) runs in any language ONNX Runtime has a binding for.
Preprocessing, learners, weights and calibration for every pattern of missing modalities are inside. Its last input,
`available`, bool [rows, {len(description["modalities"])}] in the order {", ".join(ensemble.spec.names)}, says what is
there; what stands in the other tensors where it is false makes no difference.

| tensor | type | one row |
|---|---|---|
{tensors}

Categories are their positions in `bundle.json`, empty cells NaN. Tokens and pieces of texts are made by `token_ids` and
`terms_of` in `bundle_inputs.py`. Outputs: {", ".join(f"`{name}`" for name in description["outputs"])}.

## Files

- `model.onnx`, `inference.py`, `bundle_inputs.py`, `bundle.json`{words}
- `golden.npz`: made-up rows and the ensemble's answers to them; `export.json`: how the bundle compared before it was
  published.
- `Dockerfile`, `requirements.txt`, `MODEL_CARD.md`; `checksums.json`: SHA-256 of every file, looked at before each
  start.
{more}
""".rstrip()
        + "\n"
    )


def model_card(ensemble: Ensemble, members: Sequence[Member], parity: Sequence[Parity], num_rows: int) -> str:
    """What the model is, what it was made from, how well it does and where its limits are."""
    manifest, task = ensemble.manifest, ensemble.task
    names = task.targets if task.kind == "regression" else task.classes
    patterns = "\n".join(
        f"| {' + '.join(found.available) or 'none'} | {'–' if found.loss is None else f'{found.loss:.4g}'} | "
        f"{found.best_single or '–'} | {len(found.weights)} | {found.num_rows:,} |"
        for found in manifest.patterns
    )
    learners = "\n".join(
        f"| {member.name} | {member.kind} | {', '.join(member.modalities)} | "
        f"{'–' if member.score is None else f'{member.score:.4f}'} |"
        for member in members
    )
    coverage = (
        f"Sets and intervals are to hold the truth in {ensemble.coverage:.0%} of rows drawn like the training rows,"
        " under every pattern; for other rows nothing is promised."
        if ensemble.coverage
        else "It promises no coverage."
    )
    compared = "\n".join(
        f"- {one.format}: at most {one.difference:.2g} away from the ensemble, {len(one.patterns)} patterns of"
        f" {num_rows:,} rows, all at once and one by one."
        for one in parity
    )
    worth = ", ".join(f"{name} {value:.3g}" for name, value in manifest.worth.items()) or "not measured"
    unknown = "not recorded"
    return f"""# Model card: {ensemble.name}

- Task: {task.kind} of {len(names)} ({_listed(names)}), from {", ".join(ensemble.spec.names)}.
- Trained on: {manifest.dataset or unknown}, fingerprint {manifest.dataset_fingerprint or unknown}.
- Seed: {manifest.seed}.
- Learners: {len(members)}, weighted and calibrated on rows they were not trained on, for every pattern of missing
  modalities.
- Loss that each modality saves out of bag: {worth}.

## How well it does, out of bag

Log loss, or squared error as a share of the target's variance, on training rows that the learners had not seen. These
rows also chose the weights: figures on a test split are in the run that trained it.

| available | loss | best single learner | learners | rows |
|---|---|---|---|---|
{patterns}

## Learners

| name | kind | modalities | {task.metric} out of bag |
|---|---|---|---|
{learners}

## Limits

- {coverage}
- It knows rows like those it was trained on. Values far outside are held at 10,000 standard deviations; nothing warns
  of them: watch what comes in.
- Confidence is calibrated on average over such rows, not for every group among them.
- Missing means missing at random as far as the weights know: a modality that is absent *because* of what it would show
  is not recognised as such.

## How it was exported

{compared}
"""


def _modality_row(modality: Mapping[str, Any]) -> str:
    flat = modality["flat_columns"]
    if modality["kind"] in {"text", "tabular"}:
        columns = _listed(f"`{column}`" for column in flat)
    else:
        columns = f"`{flat[0]}` … `{flat[-1]}`" if len(flat) > 1 else f"`{flat[0]}`"
    row = {"text": "one text", "tabular": f"{len(flat)} columns"}.get(modality["kind"]) or f"{modality['shape']}"
    return f"| {modality['name']} | {modality['kind']} | {row} | {columns} |"


def _tensor_row(given: Mapping[str, Any]) -> str:
    shape = str(given["shape"]) if given["shape"] else "[pieces], as many as the longest text has"
    return f"| `{given['name']}` | {given['dtype']} | {shape} |"


def _outputs(ensemble: Ensemble) -> str:
    task = ensemble.task
    told = f"`confidence` in [0, 1], and `num_learners`, how many spoke (0: none could). {_promised(ensemble)}"
    if task.kind == "regression":
        return f"`values`: {_listed(task.targets)}; `std`, the error to be expected of each; {told}"
    kind = "probabilities of the classes" if task.kind == "classification" else "probabilities of the labels"
    return f"`values`: {kind} {_listed(task.classes)}; {told}"


def _promised(ensemble: Ensemble) -> str:
    if not ensemble.coverage:
        return ""
    held = "`lower` and `upper` hold the value" if ensemble.task.kind == "regression" else "`sets` hold the truth"
    return f"{held} in {ensemble.coverage:.0%} of rows like the training rows."


def _listed(names: Any) -> str:
    shown = list(names)
    rest = len(shown) - _MAX_LISTED
    return ", ".join(shown[:_MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")
