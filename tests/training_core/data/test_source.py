from pathlib import Path

import pytest

from training_core.data.source import load_source
from training_core.errors import ConfigError

FULL = """\
name: shoes
task: {kind: classification, target: {file: meta.csv, column: label}}
id: {file: meta.csv, column: sample_id}
group: {file: meta.csv, column: user}
time:  {file: meta.csv, column: ts}
split: {file: meta.csv, column: split}
modalities:
  photo:  {kind: image,    file: photos.npy}
  review: {kind: text,     file: meta.csv, columns: [title, body]}
  clicks: {kind: sequence, file: clicks.npz, key: x}
  vec:    {kind: vector,   file: vec.npz, key: emb}
  meta:   {kind: tabular,  file: meta.parquet, columns: [age, city], categorical: [city]}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "source.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_of_the_format_is_understood(tmp_path):
    config, folder = load_source(written(tmp_path, FULL))
    assert folder == tmp_path
    assert list(config.modalities) == ["photo", "review", "clicks", "vec", "meta"]
    assert config.task.target.names == ("label",)
    assert config.files() == ("clicks.npz", "meta.csv", "meta.parquet", "photos.npy", "vec.npz")


def test_without_a_split_30_percent_are_drawn_with_seed_0(tmp_path):
    text = "\n".join(line for line in FULL.splitlines() if not line.startswith("split"))
    config, _ = load_source(written(tmp_path, text))
    assert (config.split.test, config.split.validation, config.split.seed) == (0.3, 0.0, 0)


def test_overrides_stand_over_the_file(tmp_path):
    text = FULL.replace("split: {file: meta.csv, column: split}", "split: {test: 0.2}")
    config, _ = load_source(written(tmp_path, text), {"name": "boots", "split": {"seed": 5}})
    assert config.name == "boots"
    assert (config.split.test, config.split.seed) == (0.2, 5)


def test_windows_line_ends_and_unicode_names_are_read(tmp_path):
    text = FULL.replace("age, city", "Größe, 市").replace("categorical: [city]", "categorical: [市]")
    path = tmp_path / "source.yaml"
    path.write_bytes(text.replace("\n", "\r\n").encode())
    config, _ = load_source(path)
    assert config.modalities["meta"].columns == ("Größe", "市")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: shoes", "name: shoes\nname: boots", "'name' is written twice"),
        ("name: shoes", "name: shoes\ncolour: red", "unknown key 'colour'"),
        ("name: shoes", "name: ../shoes", "'name' is '../shoes'"),
        ("name: shoes", "name: 7", "'name' is 7"),
        ("name: shoes\n", "", "'name' is missing"),
        ("kind: image,", "kind: picture,", r"modalities.photo: 'kind' is 'picture'"),
        ("kind: image,", "kind: image, size: 8,", r"modalities.photo: unknown key 'size'; known keys here: kind, file"),
        ("photos.npy", "photos.png", r"'file' is 'photos.png': files ending in '.png' cannot be read; use one of .csv"),
        ("photos.npy", "photos.h5", r"files ending in '.h5' cannot be read; use one of .csv, .tsv, .parquet, .npy"),
        ("file: photos.npy", "file: photos.csv", "image is an array"),
        ("file: photos.npy", "file: photos.npy, key: x", "`key` names an array of an .npz file"),
        ("file: photos.npy", "file: photos.npy, columns: [a]", "photos.npy has no columns"),
        ("file: meta.csv, columns: [title, body]", "file: text.npy", "text is read from columns"),
        (", columns: [title, body]", "", "`columns` is missing"),
        ("columns: [age, city]", "columns: [age, city, age]", "column age is listed twice"),
        ("categorical: [city]", "categorical: [town]", "names town, which `columns` does not list"),
        ("columns: [title, body]", "columns: [title], categorical: [title]", "`categorical` is for tabular"),
        ("columns: [title, body]", "columns: [title, label]", "'review' has the target column label as an input"),
        ("  photo:", "  photo+:", r"named|name is up to 50"),
        ("column: label", "columns: [a, b]", "a classification target is one `column`"),
        ("column: label", "column: a, columns: [b]", "needs either `column`"),
        (", column: label", "", "needs either `column`"),
        ("kind: classification", "kind: multilabel", "a multilabel target is a list of `columns`"),
        ("file: meta.csv, column: label", "file: y.npy, column: label", "the file has to be one of .csv"),
        ("split: {file: meta.csv, column: split}", "split: {file: meta.csv}", "needs both `file` and `column`"),
        ("column: split}", "column: split, test: 0.2}", "so test would have no effect"),
        ("split: {file: meta.csv, column: split}", "split: {test: 0.6, validation: 0.5}", "below 1"),
        ("split: {file: meta.csv, column: split}", "split: {test: 0}", "'split.test' is 0"),
        ("split: {file: meta.csv, column: split}", "split: {train: 0.5}", "unknown key 'split.train'"),
        ("modalities:", "modalities: {}\nother:", "unknown key 'other'|`modalities` is empty"),
        (FULL, "- a list", "holds list, expected keys and values"),
        (FULL, "name: [unclosed", "not valid YAML"),
        (FULL, "name: !!python/object/apply:os.system [echo]", "not valid YAML"),
        (FULL, "", "holds NoneType"),
    ],
)
def test_a_wrong_description_is_one_line_naming_the_key(tmp_path, old, new, message):
    assert old in FULL
    with pytest.raises(ConfigError, match=message) as caught:
        load_source(written(tmp_path, FULL.replace(old, new, 1)))
    assert "\n" not in str(caught.value)
    assert "source.yaml" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere.yaml"):
        load_source(tmp_path / "nowhere.yaml")
