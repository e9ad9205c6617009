"""The bundle's model as a repository that NVIDIA Triton serves, with a description read off the model itself.

<out>/triton/<name>/config.pbtxt
<out>/triton/<name>/1/model.onnx

    docker run --rm -p 127.0.0.1:8000:8000 -v <out>/triton:/models nvcr.io/nvidia/tritonserver:<release>-py3 \
        tritonserver --model-repository=/models
"""

import os
import re
import shutil
from pathlib import Path

from training_core.export.onnx_graph import TensorInterface, read_interface

MAX_ROWS = 1024
"""In one request, and in one batch that Triton puts together of several."""
_TYPES = {
    "BOOL": "TYPE_BOOL",
    "DOUBLE": "TYPE_FP64",
    "FLOAT": "TYPE_FP32",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
}


def write_repository(bundle: Path, name: str) -> None:
    """Make the folder `triton` in `bundle`, whose `model.onnx` it shares: a second name of the file, not a copy.

    Where the file system knows no second names, it is a copy.
    """
    model = re.sub(r"[^\w.-]", "_", name).strip(".") or "model"
    version = bundle / "triton" / model / "1"
    version.mkdir(parents=True)
    for file in sorted(bundle.glob("model.onnx*")):  # weights of very large models lie beside it
        try:
            os.link(file, version / file.name)
        except OSError:
            shutil.copyfile(file, version / file.name)
    inputs, outputs = read_interface(bundle / "model.onnx")
    (version.parent / "config.pbtxt").write_text(_describe(model, inputs, outputs), encoding="utf-8")


def _describe(name: str, inputs: tuple[TensorInterface, ...], outputs: tuple[TensorInterface, ...]) -> str:
    """`config.pbtxt`; the first dimension of every tensor is the batch, which Triton leaves out."""
    return (
        f'name: "{name}"\n'
        'backend: "onnxruntime"\n'
        f"max_batch_size: {MAX_ROWS}\n"
        f"input [\n{_tensors(inputs)}\n]\n"
        f"output [\n{_tensors(outputs)}\n]\n"
        # Trees have no kernel for GPUs, and on a CPU it was compared with the ensemble.
        "instance_group [ { kind: KIND_CPU, count: 1 } ]\n"
        "dynamic_batching { }\n"
    )


def _tensors(tensors: tuple[TensorInterface, ...]) -> str:
    return ",\n".join(f"  {{ {_tensor(tensor)} }}" for tensor in tensors)


def _tensor(tensor: TensorInterface) -> str:
    sizes = [-1 if size is None else size for size in tensor.shape[1:]]
    # A tensor needs a dimension here: one number per row is given one, and loses it on the way.
    dims = f"dims: [ {', '.join(map(str, sizes))} ]" if sizes else "dims: [ 1 ], reshape: { shape: [ ] }"
    return f'name: "{tensor.name}", data_type: {_TYPES[tensor.dtype]}, {dims}'
