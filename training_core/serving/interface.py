"""What a model takes and gives, for people and programs: its schema, an example, and the OpenAPI description."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from training_core.schema import DataSpec, ModalitySpec, TaskSpec
from training_core.selection.ensemble import Ensemble
from training_core.serving.config import ServingConfig

_MAX_EXAMPLE_NUMBERS = 64
_MEANINGS = {
    400: "The body is not JSON, or the Host header names another host.",
    401: "The token is missing or wrong.",
    408: "The body took too long to arrive.",
    413: "The body is too long, or holds too many rows.",
    415: "The body does not say that it is JSON.",
    422: "The body does not fit the model; the sentence says where and what was expected.",
    503: "There is no room or no time for the request now; ask again.",
}


def model_schema(ensemble: Ensemble, uri: str, config: ServingConfig) -> dict[str, Any]:
    """What each modality looks like, what is answered, the limits, and a body that can be sent."""
    task = ensemble.task
    outputs: dict[str, Any] = {"targets": task.targets} if task.kind == "regression" else {"classes": task.classes}
    return {
        "model": uri,
        "name": ensemble.name,
        "dataset": ensemble.manifest.dataset,
        "task": {"kind": task.kind, **outputs, "coverage": ensemble.coverage},
        "modalities": [_modality(modality) for modality in ensemble.spec.modalities],
        "limits": {
            "rows": config.max_rows,
            "bytes": config.max_bytes,
            "seconds": config.timeout_seconds,
        },
        "example": {"sample": example_sample(ensemble.spec)},
    }


def example_sample(spec: DataSpec) -> dict[str, Any]:
    """A made-up sample; arrays too long to read are left out, as any modality may be.

    Where nothing else is left, the first modality is there however long it is.
    """
    short = [m for m in spec.modalities if m.num_features <= _MAX_EXAMPLE_NUMBERS or m.kind == "tabular"]
    return {modality.name: _example(modality) for modality in short or spec.modalities[:1]}


def openapi_parts(ensemble: Ensemble) -> dict[str, Any]:
    """Schemas by name: what a request holds and what its answer holds, for this model's modalities and task."""
    spec = ensemble.spec
    sample = _object({m.name: _or_null(_one(m)) for m in spec.modalities}, "One sample; what is left out is missing.")
    inputs = _object({m.name: _or_null(_many(m)) for m in spec.modalities}, "Values of all samples by modality.")
    ids = {"type": "array", "items": {"type": ["string", "integer"]}, "description": "One per sample; given back."}
    forms = {
        "sample": {"$ref": "#/components/schemas/Sample"},
        "samples": {"type": "array", "items": {"$ref": "#/components/schemas/Sample"}, "minItems": 1},
        "inputs": {"$ref": "#/components/schemas/Inputs"},
    }
    return {
        "Sample": sample,
        "Inputs": inputs,
        "Request": {
            "oneOf": [_object({form: schema, "ids": ids}, required=[form]) for form, schema in forms.items()],
            "examples": [{"sample": example_sample(spec)}],
        },
        "Prediction": _prediction(ensemble.task),
        "Answer": _object(
            {
                "model": {"type": "string", "description": "The version that answered."},
                "predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}},
            },
            required=["model", "predictions"],
        ),
        "Error": _object({"error": {"type": "string", "description": "One sentence."}}, required=["error"]),
    }


def openapi_of_predict() -> dict[str, Any]:
    """Request and responses of POST /predict, which refer to `openapi_parts`."""
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Request"}}},
        },
        "responses": {
            "200": {
                "description": "One prediction per sample, in their order.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}},
            },
            **{str(code): {"description": text, "content": error} for code, text in _MEANINGS.items()},
        },
    }


def _modality(modality: ModalitySpec) -> dict[str, Any]:
    """A modality as `/schema` tells it."""
    told: dict[str, Any] = {"name": modality.name, "kind": modality.kind}
    if modality.kind == "tabular":
        told["columns"] = [
            {"name": column.name, "type": "number"}
            if column.categories is None
            else {"name": column.name, "type": "category", "categories": column.categories}
            for column in modality.columns
        ]
    elif modality.kind == "text":
        told["type"] = "text"
    else:
        told |= {"type": "numbers", "shape": modality.shape}
    return told


def _example(modality: ModalitySpec) -> Any:
    if modality.kind == "text":
        return "some words"
    if modality.kind == "tabular":
        return {
            column.name: 0.0 if column.categories is None else next(iter(column.categories), None)
            for column in modality.columns
        }
    return np.zeros(modality.shape).tolist()


def _one(modality: ModalitySpec) -> dict[str, Any]:
    """JSON schema of one sample's value."""
    if modality.kind == "text":
        return {"type": "string"}
    if modality.kind == "tabular":
        return _object({column.name: _or_null(_cell(column.categories)) for column in modality.columns})
    numbers: dict[str, Any] = {"type": "number"}
    for size in reversed(modality.shape):
        numbers = {"type": "array", "items": numbers, "minItems": size, "maxItems": size}
    return {"oneOf": [numbers, _npy(f"of shape {list(modality.shape)}")]}


def _many(modality: ModalitySpec) -> dict[str, Any]:
    """JSON schema of all samples' values."""
    if modality.kind == "tabular":
        cells = {c.name: {"type": "array", "items": _or_null(_cell(c.categories))} for c in modality.columns}
        return _object(cells, "Columns by name, each with a cell for every sample.")
    rows = {"type": "array", "items": _or_null(_one(modality))}
    if modality.kind == "text":
        return rows
    return {
        "oneOf": [rows, _npy(f"of shape [samples, {', '.join(map(str, modality.shape))}]; rows of NaN are missing")]
    }


def _cell(categories: tuple[str, ...] | None) -> dict[str, Any]:
    if categories is None:
        return {"type": "number"}
    known = ", ".join(categories[:12]) + (" …" if len(categories) > 12 else "")
    return {"type": ["string", "number"], "description": f"One of {known}; anything else counts as missing."}


def _npy(shape: str) -> dict[str, Any]:
    held = {"type": "string", "contentEncoding": "base64", "description": f"An .npy file {shape}."}
    return _object({"npy": held}, required=["npy"])


def _prediction(task: TaskSpec) -> dict[str, Any]:
    names = {"type": "array", "items": {"type": "string"}}
    always = {
        "id": {"type": "string"},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "used": names | {"description": "Modalities that the answer rests on."},
        "missing": names,
        "num_learners": {
            "type": "integer",
            "description": "0: none could answer; this is what is known without input.",
        },
    }
    if task.kind == "regression":
        value = _values({"type": ["number", "null"]}, task.targets)
        interval = _object({"lower": value, "upper": value}, "Between these, at the coverage that the schema tells.")
        own = {"prediction": value, "std": value, "interval": interval}
    else:
        chosen = {"type": "string"} if task.kind == "classification" else names
        share = {"type": "number", "minimum": 0, "maximum": 1}
        own = {
            "prediction": chosen,
            "probabilities": _object(dict.fromkeys(task.classes, share)),
            "prediction_set": names
            | {"description": "What cannot be ruled out at the coverage that the schema tells."},
        }
    return _object({**always, **own}, required=[*always, "prediction"])


def _values(value: dict[str, Any], targets: tuple[str, ...]) -> dict[str, Any]:
    return value if len(targets) == 1 else _object(dict.fromkeys(targets, value))


def _object(properties: Mapping[str, Any], description: str = "", required: list[str] | None = None) -> dict[str, Any]:
    made = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return made | ({"description": description} if description else {}) | ({"required": required} if required else {})


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}
