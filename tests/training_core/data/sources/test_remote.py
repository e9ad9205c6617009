"""Files behind URLs: a real S3 server on this machine, a web server, and the file systems that fsspec brings."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import zarr
from PIL import Image
from source_formats import write_delimited, write_jsonl, write_parquet, write_parquet_folder

from training_core.data.sources import open_array, open_table, remote
from training_core.errors import DataError, PolychoirError, TransientError

TABLE = pa.table({"n": list(range(100)), "t": ["größe"] * 100})


def fill(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_delimited(TABLE, folder / "t.csv")
    write_jsonl(TABLE, folder / "t.jsonl")
    write_parquet(TABLE, folder / "t.parquet")
    write_parquet_folder(TABLE, folder / "parts")
    write_parquet_folder(TABLE, folder / "spark.parquet")
    np.savez(folder / "a.npz", x=np.arange(12.0).reshape(4, 3))
    zarr.open_group(folder / "a.zarr", mode="w").create_array("x", data=np.arange(12.0).reshape(4, 3), chunks=(2, 3))
    (folder / "photos").mkdir()
    for i in range(3):
        Image.fromarray(np.full((2, 2), i, np.uint8)).save(folder / "photos" / f"{i}.png")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a bucket on a server of our own, with every format in its folder `data`."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        folder = tmp_path_factory.mktemp("bucket")
        fill(folder)
        files: Any = fsspec.filesystem("s3", skip_instance_cache=True)
        files.mkdir("bucket")
        files.put(str(folder), "bucket/data", recursive=True)
        yield "s3://bucket/data"
    server.stop()


@pytest.fixture
def memory(tmp_path: Path) -> str:
    fill(tmp_path / "m")
    files = fsspec.filesystem("memory")
    files.put(str(tmp_path / "m"), "/data", recursive=True)
    return "memory://data"


@pytest.fixture
def local(tmp_path: Path) -> str:
    fill(tmp_path / "a folder")
    return f"file://{tmp_path}/a folder"


@pytest.mark.parametrize("place", ["s3", "memory", "local"])
def test_every_format_is_read_from_a_url(place, request, tmp_path):
    base = request.getfixturevalue(place)
    staging = tmp_path / "staging"
    for name in ("t.csv", "t.jsonl", "t.parquet", "parts", "spark.parquet"):
        taken = open_table(f"{base}/{name}", staging).take(["n"], slice(None))["n"].to_pylist()
        assert [int(n) for n in taken] == list(range(100)), name
    for name in ("a.npz", "a.zarr"):
        assert (open_array(f"{base}/{name}", "x", staging).take(np.asarray([3, 0])) == [[9, 10, 11], [0, 1, 2]]).all()
    assert open_array(f"{base}/photos", None, staging).take(slice(None))[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_a_url_is_copied_once(s3, tmp_path):
    open_table(f"{s3}/t.csv", tmp_path)
    (copy,) = (tmp_path / "remote").rglob("t.csv")
    copy.write_text("other\n1\n")
    assert open_table(f"{s3}/t.csv", tmp_path).columns == ("other",)


@pytest.mark.parametrize("place", ["s3", "memory", "local"])
def test_what_is_not_there_is_named(place, request, tmp_path):
    base = request.getfixturevalue(place)
    for name in ("gone.csv", "gone.zarr", "gone", "gone.parquet"):
        with pytest.raises(DataError, match=rf"{name} is not there"):
            open_array(f"{base}/{name}", None, tmp_path) if "zarr" in name else open_table(f"{base}/{name}", tmp_path)


def test_a_bucket_that_is_not_there_is_named(s3, tmp_path):
    with pytest.raises(DataError, match=r"s3://nowhere/t\.csv is not there"):
        open_table("s3://nowhere/t.csv", tmp_path)


def test_a_server_that_does_not_answer_is_worth_another_try(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.config.conf["s3"] = {"config_kwargs": {"connect_timeout": 1, "retries": {"max_attempts": 0}}}
    try:
        with pytest.raises(TransientError, match=r"s3://bucket/t\.csv cannot be read now"):
            open_table("s3://bucket/t.csv", tmp_path)
    finally:
        del fsspec.config.conf["s3"]
    with pytest.raises(TransientError, match="cannot be read now"):
        open_table("http://127.0.0.1:9/t.csv", tmp_path)


class Moody(http.server.SimpleHTTPRequestHandler):
    """A web server that keeps some files to itself and is tired of others."""

    def do_GET(self) -> None:
        for name, status in {"private": 403, "tired": 503, "busy": 429}.items():
            if name in self.path:
                self.send_error(status)
                return
        super().do_GET()

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    fill(tmp_path / "web")
    handler = functools.partial(Moody, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_files_are_read_from_a_web_server(web, tmp_path):
    assert open_table(f"{web}/t.csv?version=1.5#part", tmp_path).num_rows == 100
    assert open_array(f"{web}/a.npz", "x", tmp_path).shape == (4, 3)
    for name, error, message in [
        ("gone.csv", DataError, "is not there"),
        ("private.csv", DataError, "may not be read .HTTP 403"),
        ("tired.csv", TransientError, "cannot be read now"),
        ("busy.csv", TransientError, "cannot be read now"),
    ]:
        with pytest.raises(error, match=message) as caught:
            open_table(f"{web}/{name}?token=secret", tmp_path)
        assert "secret" not in str(caught.value).partition("(")[0]


def test_a_protocol_nobody_knows_and_a_driver_nobody_installed_are_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"'gopher' is no protocol that can be read; use s3://"):
        open_table("gopher://host/t.csv", tmp_path)
    with pytest.raises(DataError, match=r"reading gs:// needs a driver that is not installed; pip install 'gcsfs'"):
        open_table("gs://bucket/t.csv", tmp_path)

    def missing(url: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(DataError, match=r"pip install 'polychoir\[s3\]'"):
        open_table("s3://bucket/t.csv", tmp_path)


class Listing(fsspec.AbstractFileSystem):
    """A folder whose files are called as an attacker likes."""

    protocol = "listing"
    names: tuple[str, ...] = ()

    def find(self, path: str, *_: Any, **__: Any) -> list[str]:
        return [f"{path}/{name}" for name in self.names]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": 3, "type": "file"}

    def open(self, path: str, *_: Any, **__: Any) -> Any:
        import io

        return io.BytesIO(b"abc")


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "..", "/etc/x.png", "a//b.png", "a\\..\\b.png", "./x"])
def test_a_name_never_leads_out_of_the_staging_folder(tmp_path, name, monkeypatch):
    fsspec.register_implementation("listing", Listing, clobber=True)
    monkeypatch.setattr(Listing, "names", ("good/1.png", name))
    with pytest.raises(DataError, match="whose name leads out of the folder"):
        remote.locate("listing://bucket/photos", tmp_path / "staging")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"1.png"}
    assert not list((tmp_path / "staging").rglob("photos"))  # nothing that a later call would take for whole


def test_a_copy_that_broke_off_is_worth_another_try(tmp_path, monkeypatch):
    fsspec.register_implementation("listing", Listing, clobber=True)
    monkeypatch.setattr(Listing, "info", lambda self, path, **_: {"name": path, "size": 9, "type": "file"})
    with pytest.raises(TransientError, match="broke off after 3 of 9 bytes"):
        remote.locate("listing://bucket/t.csv", tmp_path)
    assert not list(tmp_path.rglob("t.csv"))


def test_a_password_in_a_url_is_not_shown(tmp_path):
    with pytest.raises(PolychoirError) as caught:
        open_table("http://user:secret@127.0.0.1:9/t.csv?signature=private", tmp_path)
    assert "http://127.0.0.1:9/t.csv " in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "private" not in str(caught.value)
