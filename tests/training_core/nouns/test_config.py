"""Configurations say what is wrong with them in one line, and hash by content."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from training_core.config import Config
from training_core.errors import ConfigError
from training_core.quantities import PositiveInt, Rate, format_bytes, format_seconds
from training_core.settings import merged, parse_overrides, read_yaml
from training_core.variants import kinds, members, parse_variant


class Inner(Config):
    width: PositiveInt = 8
    """Units."""
    dropout: Rate = 0.1


class Outer(Config):
    kind: Literal["outer"] = "outer"
    inner: Inner = Inner()
    name: str


class Several(Config):
    parts: tuple[Inner, ...] = ()


class Other(Config):
    kind: Literal["other"] = "other"


def test_an_unknown_key_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: unknown key 'inner\.widht'; known keys here: width, dropout"):
        Outer.parse({"name": "a", "inner": {"widht": 3}}, "run.yaml")


def test_the_key_that_was_probably_meant_is_said() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'inner\.widht'.*\(did you mean 'width'\?\)"):
        Outer.parse({"name": "a", "inner": {"widht": 3}}, "run.yaml")


def test_a_member_of_a_list_is_told_its_own_keys() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'parts\.0\.colour'; known keys here: width, dropout$"):
        Several.parse({"parts": [{"colour": 3}]}, "here")


def test_what_must_be_a_list_is_shown_as_one() -> None:
    with pytest.raises(ConfigError, match=r"'parts' is 'thick': it must be a list, such as \[thick\]"):
        Several.parse({"parts": "thick"}, "here")


def test_a_wrong_value_is_named_with_what_was_expected() -> None:
    with pytest.raises(ConfigError, match=r"'inner\.width' is -1: input should be greater than 0"):
        Outer.parse({"name": "a", "inner": {"width": -1}}, "here")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="'name' is missing"):
        Outer.parse({}, "here")


@pytest.mark.parametrize(
    "given",
    ["postgresql://me:hunt'er 2/@host/db", ["http://me:hun@ter2@host"], {"at": "mysql://host/?password='hun ter2&a=1"}],
)
def test_a_wrong_value_is_shown_without_its_secrets(given: object) -> None:
    with pytest.raises(ConfigError, match=r"'inner\.width' is .*(host|mysql)") as caught:
        Outer.parse({"name": "a", "inner": {"width": given}}, "here")
    assert "hun" not in str(caught.value)
    assert "er2" not in str(caught.value)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        Outer(name="a").name = "b"  # pyright: ignore[reportAttributeAccessIssue]


def test_equal_configs_have_equal_hashes_whatever_the_order_of_their_keys() -> None:
    one = Outer.parse({"name": "a", "inner": {"width": 3, "dropout": 0.2}}, "")
    two = Outer.parse({"inner": {"dropout": 0.2, "width": 3}, "name": "a"}, "")
    assert one.content_hash() == two.content_hash()
    assert one.content_hash() != Outer(name="b").content_hash()
    assert Outer.model_validate_json(one.to_json()) == one


def test_a_field_docstring_becomes_its_description() -> None:
    assert Inner.model_fields["width"].description == "Units."


def test_overrides_nest_and_are_read_as_yaml() -> None:
    overrides = parse_overrides(["training.epochs=20", "training.lr=1e-2", "bags.sampling=bootstrap", "seed=7"])
    assert overrides == {"training": {"epochs": 20, "lr": "1e-2"}, "bags": {"sampling": "bootstrap"}, "seed": 7}


@pytest.mark.parametrize("override", ["epochs", "=3", "a..b=1", "a=[1"])
def test_a_malformed_override_is_a_clear_error(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_overrides([override])


def test_merging_keeps_what_is_not_overridden() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}}) == {"a": {"b": 9, "c": 2}, "d": 3}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\na: 2\n", "'a' is written twice"),
        ("a: [1", "not valid YAML"),
        ("- 1\n", "holds list"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_bad_yaml_file_is_a_clear_error(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        read_yaml(path)


def test_a_merged_mapping_may_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("base: &base {a: 1, b: 2}\nover: {<<: *base, b: 3}\n")
    assert read_yaml(path)["over"] == {"a": 1, "b": 3}


def test_an_absent_or_binary_yaml_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_yaml(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read"):
        read_yaml(tmp_path / "binary.yaml")


def test_a_family_knows_its_members_by_kind() -> None:
    union = Annotated[Outer | Other, Field(discriminator="kind")]
    assert members(union) == (Outer, Other)
    assert kinds(union) == ("outer", "other")
    assert parse_variant(union, {"kind": "other"}, "here") == Other()
    with pytest.raises(ConfigError, match="here: unknown kind 'outre'; choose one of outer, other"):
        parse_variant(union, {"kind": "outre"}, "here")


def test_numbers_read_as_a_person_says_them() -> None:
    assert [format_seconds(s) for s in (0.423, 12.34, 185, 7620)] == ["0.42 s", "12.3 s", "3 min 05 s", "2 h 07 min"]
    assert [format_bytes(n) for n in (512, 1234, 34e6, 5.1e9)] == ["512 B", "1.2 kB", "34.0 MB", "5.1 GB"]


def test_a_cron_line_may_begin_with_an_asterisk() -> None:
    assert parse_overrides(["monitor=*/5 * * * *"]) == {"monitor": "*/5 * * * *"}
