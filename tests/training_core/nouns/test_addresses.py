"""Addresses are shown without their passwords and tokens, however those are written."""

import random
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from sqlalchemy.engine import make_url

from training_core.addresses import bare, holds_login, holds_secret, shown, without_secrets


@pytest.mark.parametrize(
    ("uri", "masked", "told"),
    [
        ("postgresql://me:hunter2@host/db", "postgresql://me:…@host/db", "postgresql://host/db"),
        ("postgresql://me:hun/ter2@host/db", "postgresql://me:…@host/db", "postgresql://host/db"),
        ("postgresql://me:12/34@host/db", "postgresql://me:…@host/db", "postgresql://host/db"),
        ("postgresql://me:hun'ter2@host/db", "postgresql://me:…@host/db", "postgresql://host/db"),
        ('postgresql://me:"hunter2"@host/db', "postgresql://me:…@host/db", "postgresql://host/db"),
        ("postgresql://me:hun ter2@host/db", "postgresql://me:…@host/db", "postgresql://host/db"),
        ("postgresql://me: hunter2@host/db", "postgresql://me:…@host/db", "postgresql://host/db"),
        ("postgresql://me:hun&ter2@host/db", "postgresql://me:…@host/db", "postgresql://host/db"),
        ("postgresql://me:hun?password=ter2@host/db", "postgresql://me:…@host/db", "postgresql://host/db"),
        ("postgresql://me:hunt@er2@host/db", "postgresql://me:…@host/db", "postgresql://host/db"),
        ("postgresql://me:hunt@e/r2@host/db", "postgresql://me:…@host/db", "postgresql://host/db"),
        ("postgresql://me:a::b://c@host/db", "postgresql://me:…@host/db", None),
        ("postgresql://me@azure:hun/ter2@host/db", "postgresql://me@azure:…@host/db", "postgresql://host/db"),
        ("postgresql+psycopg://:hunter2@[::1]:5432/db", "postgresql+psycopg://:…@[::1]:5432/db", None),
        ("http://me:hun/ter2@host/x", "http://…@host/x", "http://host/x"),
        ("https://me:hunter2@host/x", "https://…@host/x", "https://host/x"),
        ("HTTP://hunter2@host", "HTTP://…@host", "HTTP://host"),
        ("http://hunter2@host:5000/x@y", "http://…@host:5000/x@y", "http://host:5000/x@y"),
        ("grpc://me:hunter2@host:13000", "grpc://me:…@host:13000", "grpc://host:13000"),
        ("s3://key:hunter2@bucket/a?b.csv", "s3://key:…@bucket/a?b.csv", "s3://bucket/a?b.csv"),
        ("jdbc:postgresql://me:hunter2@host/db", "jdbc:postgresql://me:…@host/db", "jdbc:postgresql://me:…@host/db"),
        (
            "zip://a.csv::https://me:hunter2@host/b.zip?sig=x",
            "zip://a.csv::https://…@host/b.zip?sig=…",
            "zip://a.csv::https://host/b.zip",
        ),
        ("http://host/?a=1&db_password=hunter2&b=2", "http://host/?a=1&db_password=…&b=2", "http://host/"),
        ("https://host/x?a=1#access_token=hunter2", "https://host/x?a=1#access_token=…", "https://host/x"),
        ("http://host/x?a=1?token=hunter2&b=2", "http://host/x?a=1?token=…&b=2", "http://host/x"),
        ("http://host/x?a=1;token=hunter2", "http://host/x?a=1;token=…", "http://host/x"),
        ("http://host/x?passcode=hunter2", "http://host/x?passcode=…", "http://host/x"),
        ("http://host/?TOKEN=hunter2", "http://host/?TOKEN=…", "http://host/"),
        ("https://host/a.csv#access_token=/abc", "https://host/a.csv#access_token=…", "https://host/a.csv"),
        ("https://host/a.csv?access_token=/abc", "https://host/a.csv?access_token=…", "https://host/a.csv"),
        ("https://b/a.csv?X-Amz-Signature=1f&X-Amz-Date=2", "https://b/a.csv?X-Amz-Signature=…&X-Amz-Date=2", "https://b/a.csv"),
        ("mysql://host/db?user=me&password='x y", "mysql://host/db?user=me&password=…", "mysql://host/db?user=me&password=…"),
        ("mysql://host/db?pass%77ord=x", "mysql://host/db?pass%77ord=…", "mysql://host/db?pass%77ord=…"),
        ("mysql://host/db?password=a://b:c@d&x=1", "mysql://host/db?password=…&x=1", None),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dx", "mssql+pyodbc:///?odbc_connect=…", None),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_its_secrets(uri: str, masked: str, told: str | None) -> None:
    assert shown(uri) == masked
    assert shown([{"at": (uri,)}]) == [{"at": (masked,)}]
    assert holds_secret(uri)
    assert not holds_secret(masked), "what is masked holds none"
    assert told is None or bare(uri) == told
    assert not holds_secret(bare(uri))


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("postgresql://me@host:5432/db?sslmode=require", "postgresql://host:5432/db?sslmode=require"),
        ("postgresql://host/db?passfile=~/.pgpass", None),
        ("postgresql://me:@host/db", "postgresql://host/db"),
        ("https://host/…@champion", None),
        ("grpc://host:13000", None),
        ("grpc://[::1]:13000", None),
        ("http://[::1]:5000/x@y", None),
        ("http://host:5000/models/shoes@champion", None),
        ("https://host/data.v2/meta.parquet?version=1.5", "https://host/data.v2/meta.parquet"),
        ("sqlite:////data/a@b.db", None),
        ("sqlite:///C:/data/a@b.db?timeout=5", None),
        ("sqlite://", None),
        ("s3://bucket/a:b@c.csv", None),
        ("hdfs://node:8020/data/a@b.csv", None),
        ("mssql+pyodbc:///?odbc_connect=Trusted_Connection%3Dyes", None),
        ("databricks://profile", None),
        ("/data/shoes@1.csv", None),
        ("", None),
    ],
)
def test_an_address_without_secrets_is_left_as_it_is(uri: str, told: str | None) -> None:
    assert not holds_secret(uri)
    assert shown(uri) == without_secrets(uri) == uri
    assert bare(uri) == (told or uri)


def test_the_query_of_a_login_is_told_from_a_signed_one() -> None:
    assert holds_login("https://me:hunter2@host/a.csv")
    assert holds_login("simplecache::s3://key:hun/ter2@bucket/a.csv")
    assert not holds_login("https://bucket/a.csv?X-Amz-Signature=1f")
    assert not holds_login("abfs://container@account.dfs.core.windows.net/a.csv")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("see https://me:hunter2@host/x, please", "see https://…@host/x, please"),
        ("'at' is 'postgresql://me:hun'ter2@host/db': no", "'at' is 'postgresql://me:…@host/db': no"),
        ("of postgresql://me:hun ter2@host/db, no", "of postgresql://me:…@host/db, no"),
        ("of mysql://me:a@h/x and http://b@h/y?token=c: no", "of mysql://me:…@h/x and http://…@h/y?token=…: no"),
        (
            "mysql://me:hunter2@host is not\nwhere me@example.org is",
            "mysql://me:…@host is not\nwhere me@example.org is",
        ),
        ("asked 'http://h/?password=hunter2': no", "asked 'http://h/?password=…': no"),
        ("nobody at http://host:5000: ask me@example.org", None),
        ("nobody at (http://host:5000), ask me@example.org", None),
        ("nobody at http://host: ask me@example.org", None),
        ("http://host:5000/api has no shoes@champion", None),
        ("postgresql://me@host:5432/db has no shoes@champion", None),
        ("shoes@champion of models:/shoes/3", None),
    ],
)
def test_a_text_is_shown_without_the_secrets_of_its_addresses(text: str, masked: str | None) -> None:
    assert without_secrets(text) == (masked or text)


def in_a_database_address(rest: str) -> str | None:
    """The password that SQLAlchemy finds."""
    try:
        return make_url(f"postgresql://{rest}").password
    except ValueError:  # a port that is no number
        return None


def in_a_web_address(rest: str) -> str | None:
    """The user or the password that the standard library finds."""
    try:
        parts = urlsplit(f"http://{rest}")
    except ValueError:  # brackets around no address
        return None
    return parts.username or parts.password


@pytest.mark.parametrize(("scheme", "read"), [("postgresql", in_a_database_address), ("http", in_a_web_address)])
def test_whatever_others_read_as_a_password_is_found(scheme: str, read: Callable[[str], str | None]) -> None:
    draws, found = random.Random(0), 0
    for _ in range(20_000):
        rest = "".join(draws.choices("ab1:@/?&=#'\" []%", k=draws.randint(1, 14)))
        if read(rest):
            found += 1
            uri = f"{scheme}://{rest}"
            assert holds_secret(uri), uri
            assert not holds_secret(shown(uri)), uri
            assert not read(bare(uri).removeprefix(f"{scheme}://")), uri
    assert found > 1_000
