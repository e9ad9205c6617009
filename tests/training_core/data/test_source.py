from pathlib import Path

import pytest

from training_core.data.source import load_source, suffix_of
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


def test_what_is_done_about_quality_is_said_in_the_source(tmp_path):
    text = FULL + "quality: {strict: true, quarantine: true, accept: [outliers:meta.age]}\ncompression: lz4\n"
    config, _ = load_source(written(tmp_path, text))
    assert config.quality.strict
    assert config.quality.quarantine
    assert config.quality.accept == ("outliers:meta.age",)
    assert config.compression == "lz4"
    plain, _ = load_source(written(tmp_path, FULL))
    assert (plain.quality.strict, plain.quality.quarantine, plain.quality.accept) == (False, False, ())
    assert plain.compression == "none"


def test_all_rows_may_be_for_training(tmp_path):
    text = FULL.replace("split: {file: meta.csv, column: split}", "split: {test: 0}")
    assert load_source(written(tmp_path, text))[0].split.test == 0


def test_files_may_be_folders_and_urls(tmp_path):
    text = FULL.replace("photos.npy", "./photos//2024/, size: [32, 24]").replace(
        "clicks.npz, key: x", "s3://b//clicks.zarr"
    )
    text = text.replace("meta.parquet", "'https://host/data.v2/meta.parquet?version=1.5'").replace(
        "vec.npz", "sub/../vec.mat"
    )
    config, _ = load_source(written(tmp_path, text))
    assert {name: modality.file for name, modality in config.modalities.items()} == {
        "photo": "photos/2024",
        "review": "meta.csv",
        "clicks": "s3://b//clicks.zarr",
        "vec": "vec.mat",
        "meta": "https://host/data.v2/meta.parquet?version=1.5",
    }
    assert config.modalities["photo"].size == (32, 24)


@pytest.mark.parametrize(
    ("file", "suffix"),
    [
        ("a.CSV", ".csv"),
        ("photos", ""),
        ("photos-1.5/", ""),
        ("photos-1.5", ".5"),
        ("data.parquet/", ".parquet"),
        ("s3://bucket.name", ""),
        ("s3://bucket/x.zarr/", ".zarr"),
        ("https://host.org/a.csv?x=b.npy#c.d", ".csv"),
        ("simplecache::s3://bucket/a.npz", ".npz"),
        ("zip://a.csv::/home/x.zip", ".csv"),
    ],
)
def test_a_file_is_what_its_ending_says(file, suffix):
    assert suffix_of(file) == suffix


def test_a_folder_with_a_dot_in_its_name_is_one_when_it_ends_in_a_slash(tmp_path):
    for given, kept in {"./photos-1.5/": "photos-1.5/", "photos/": "photos", "x.parquet/": "x.parquet"}.items():
        kind = "kind: tabular, columns: [a]" if "parquet" in given else "kind: image"
        text = FULL.replace("kind: image,    file: photos.npy", f"{kind}, file: {given}")
        assert load_source(written(tmp_path, text))[0].modalities["photo"].file == kept


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: shoes", "name: shoes\nname: boots", "'name' is written twice"),
        ("name: shoes", "name: shoes\ncolour: red", "unknown key 'colour'"),
        ("name: shoes", "name: ../shoes", "'name' is '../shoes'"),
        ("name: shoes", "name: 7", "'name' is 7"),
        ("name: shoes\n", "", "'name' is missing"),
        ("kind: image,", "kind: picture,", r"modalities.photo: 'kind' is 'picture'"),
        (
            "kind: image,",
            "kind: image, shape: 8,",
            r"modalities.photo: unknown key 'shape'; known keys here: kind, file",
        ),
        ("kind: image,", "kind: image, size: [8, 8],", "`size` is for folders of images, and photos.npy is none"),
        ("file: photos.npy", "file: photos, size: [8, 0]", r"'size.1' is 0"),
        ("file: photos.npy", "file: photos, size: 8", r"'size' is 8"),
        ("photos.npy", "photos.png", r"'file' is 'photos.png': files ending in '.png' cannot be read; use one of .csv"),
        (
            "photos.npy",
            "photos.tar.gz",
            r"files ending in '.gz' cannot be read; use one of .csv, .tsv, .jsonl, .parquet",
        ),
        ("photos.npy", "'s3://bucket/photos.bin?x=.npy'", r"files ending in '.bin' cannot be read"),
        ("photos.npy", "https://me:secret@host/photos.npy", "https://…@host/photos.npy': a password does not belong"),
        (
            "photos.npy",
            "s3://me:sec/ret@bucket/photos.npy",
            "'s3://me:…@bucket/photos.npy': a password does not belong",
        ),
        ("file: photos.npy", "file: ''", "a file needs a name"),
        (
            "file: clicks.npz, key: x",
            "file: clicks",
            "a folder holds images or parquet files; give a sequence in one of",
        ),
        ("file: photos.npy", "file: photos, columns: [a]", "photos has no columns"),
        ("file: photos.npy", "file: photos, key: x", "`key` names an array of one of .npz, .h5"),
        ("file: vec.npz, key: emb", "file: vec", "`columns` is missing: the columns of vec"),
        ("file: photos.npy", "file: photos.csv", "image is an array"),
        ("file: photos.npy", "file: photos.npy, key: x", "`key` names an array of one of .npz, .h5"),
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
        ("split: {file: meta.csv, column: split}", "split: {test: 1}", "'split.test' is 1"),
        ("split: {file: meta.csv, column: split}", "split: {embargo: soon}", "'soon' is no duration"),
        ("column: split}", "column: split, embargo: 7d}", "so embargo would have no effect"),
        ("name: shoes", "name: shoes\ncompression: zip", "'compression' is 'zip'"),
        (
            "name: shoes",
            "name: shoes\nquality: {strikt: true}",
            "unknown key 'quality.strikt'; known keys here: strict",
        ),
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
