from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from onnx import TensorProto, helper

from tests.training_core.export.small_ensemble import make_ensemble, small_spec
from training_core.export.bundle import export_bundle
from training_core.export.onnx_graph import read_interface
from training_core.export.triton import write_repository

Field = descriptor_pb2.FieldDescriptorProto
DATA_TYPES = {"TYPE_BOOL": 1, "TYPE_INT32": 8, "TYPE_INT64": 9, "TYPE_FP32": 11, "TYPE_FP64": 12}
NUMPY = {
    "TYPE_BOOL": np.bool_,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
}


def config_message():
    """The part of Triton's `model_config.proto` (inference.ModelConfig) that descriptions use, numbers as there."""
    file = descriptor_pb2.FileDescriptorProto(name="model_config_part.proto", package="inference", syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for name, number in {"TYPE_INVALID": 0, **DATA_TYPES}.items():
        kinds.value.add(name=name, number=number)

    def message(name: str, *fields: tuple[str, int, int, bool, str]) -> None:
        made = file.message_type.add(name=name)
        for field, number, kind, repeated, of in fields:
            label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            added = made.field.add(name=field, number=number, type=kind, label=label)
            if of:
                added.type_name = f".inference.{of}"

    message("ModelTensorReshape", ("shape", 1, Field.TYPE_INT64, True, ""))
    for name, (dims, reshape) in {"ModelInput": (4, 5), "ModelOutput": (3, 5)}.items():
        message(
            name,
            ("name", 1, Field.TYPE_STRING, False, ""),
            ("data_type", 2, Field.TYPE_ENUM, False, "DataType"),
            ("dims", dims, Field.TYPE_INT64, True, ""),
            ("reshape", reshape, Field.TYPE_MESSAGE, False, "ModelTensorReshape"),
        )
    group = file.message_type.add(name="ModelInstanceGroup")
    places = group.enum_type.add(name="Kind")
    for name, number in {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2}.items():
        places.value.add(name=name, number=number)
    group.field.add(
        name="kind", number=4, type=Field.TYPE_ENUM, label=1, type_name=".inference.ModelInstanceGroup.Kind"
    )
    group.field.add(name="count", number=2, type=Field.TYPE_INT32, label=1)
    message("ModelDynamicBatching", ("preferred_batch_size", 1, Field.TYPE_INT32, True, ""))
    message(
        "ModelConfig",
        ("name", 1, Field.TYPE_STRING, False, ""),
        ("max_batch_size", 4, Field.TYPE_INT32, False, ""),
        ("input", 5, Field.TYPE_MESSAGE, True, "ModelInput"),
        ("output", 6, Field.TYPE_MESSAGE, True, "ModelOutput"),
        ("instance_group", 7, Field.TYPE_MESSAGE, True, "ModelInstanceGroup"),
        ("dynamic_batching", 11, Field.TYPE_MESSAGE, False, "ModelDynamicBatching"),
        ("backend", 17, Field.TYPE_STRING, False, ""),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()


def described(repository: Path):
    (folder,) = repository.iterdir()
    config = text_format.Parse((folder / "config.pbtxt").read_text(), config_message())
    assert config.name == folder.name
    return folder, config


def assert_says_what_the_model_is(config, model: Path) -> None:
    """What Triton compares when it loads a model: names, types, and shapes without the batch."""
    inputs, outputs = read_interface(model)
    names = {number: name for name, number in DATA_TYPES.items()}
    for tensors, told in ((inputs, config.input), (outputs, config.output)):
        assert [tensor.name for tensor in tensors] == [one.name for one in told]
        for tensor, one in zip(tensors, told, strict=True):
            wanted = onnx.helper.tensor_dtype_to_np_dtype(getattr(TensorProto, tensor.dtype))
            assert NUMPY[names[one.data_type]] == wanted
            assert tensor.shape[0] is None
            shape = list(one.reshape.shape) if one.HasField("reshape") else list(one.dims)
            assert shape == [-1 if size is None else size for size in tensor.shape[1:]]
            assert len(one.dims) > 0  # Triton refuses a tensor without dimensions


def test_the_description_is_that_of_the_models_own_tensors(tmp_path: Path):
    values = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["vec"], ["values"]),
            helper.make_node("Identity", ["terms"], ["seen"]),
            helper.make_node("ReduceSum", ["vec", "axes"], ["confidence"], keepdims=0),
            helper.make_node("Identity", ["available"], ["sets"]),
        ],
        "small",
        [
            values("vec", TensorProto.FLOAT, ["rows", 4]),
            values("terms", TensorProto.INT64, ["rows", "pieces"]),
            values("available", TensorProto.BOOL, ["rows", 3]),
        ],
        [
            values("values", TensorProto.FLOAT, ["rows", 4]),
            values("seen", TensorProto.INT64, ["rows", "pieces"]),
            values("confidence", TensorProto.FLOAT, ["rows"]),
            values("sets", TensorProto.BOOL, ["rows", 3]),
        ],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(tmp_path / "model.onnx"))
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    write_repository(tmp_path, 'sh/oes "3"')
    folder, config = described(tmp_path / "triton")
    assert folder.name == "sh_oes__3_" and config.max_batch_size > 1 and config.backend == "onnxruntime"
    assert sorted(file.name for file in (folder / "1").iterdir()) == ["model.onnx", "model.onnx.data"]
    assert_says_what_the_model_is(config, tmp_path / "model.onnx")


@pytest.mark.parametrize("name", ["..", "", "."])
def test_no_name_leads_out_of_the_repository(tmp_path: Path, name: str):
    graph = helper.make_graph([], "empty", [], [])
    onnx.save(helper.make_model(graph), str(tmp_path / "model.onnx"))
    write_repository(tmp_path, name)
    assert (tmp_path / "triton" / "model" / "config.pbtxt").is_file()


@pytest.mark.slow
def test_the_repository_of_a_bundle_is_whole_and_answers(tmp_path: Path):
    report = export_bundle(make_ensemble(tmp_path / "made", small_spec()), tmp_path / "out", ["triton"])
    assert report.formats == ("onnx", "triton")
    folder, config = described(tmp_path / "out" / "triton")
    model = folder / "1" / "model.onnx"
    assert model.stat().st_ino == (tmp_path / "out" / "model.onnx").stat().st_ino
    by_name = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert report.num_bytes == by_name - model.stat().st_size, "one file by two names"
    assert_says_what_the_model_is(config, model)
    names = {number: name for name, number in DATA_TYPES.items()}
    for batch in (1, 5):
        feed = {
            one.name: np.zeros((batch, *(2 if size < 0 else size for size in one.dims)), NUMPY[names[one.data_type]])
            for one in config.input
        }
        answers = onnxruntime.InferenceSession(str(model)).run(None, feed)
        for one, answer in zip(config.output, answers, strict=True):
            own = [] if one.HasField("reshape") else list(one.dims)
            assert list(answer.shape) == [batch, *own]
    assert "tritonserver" in (tmp_path / "out" / "README.md").read_text()
