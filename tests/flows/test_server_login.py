"""The server that a store brings along answers nobody but those who can read the store."""

import base64
import json
import stat
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from flows.embedded_server import embedded_server, keep_login, login_of
from training_core.artifacts import private_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    return tmp_path


def test_a_password_is_made_once_and_only_its_owner_can_read_it(home: Path) -> None:
    assert login_of(home) == ""
    made = keep_login(home)
    user, _, password = made.partition(":")
    assert user == "polychoir" and len(password) >= 24
    assert login_of(home) == keep_login(home) == made
    assert stat.S_IMODE((home / "login").stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == ["login"]


def test_a_group_that_may_write_to_a_store_may_read_its_password(home: Path) -> None:
    home.chmod(0o770)
    keep_login(home)
    assert stat.S_IMODE((home / "login").stat().st_mode) == 0o660


def test_two_stores_have_two_passwords(home: Path) -> None:
    for name in ("one", "two"):
        (home / name).mkdir()
    assert keep_login(home / "one") != keep_login(home / "two")


def test_a_password_of_ones_own_is_kept_for_the_commands_that_use_the_server(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_login(home)
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "me:a-password-of-mine")
    assert keep_login(home) == "me:a-password-of-mine"
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING")
    assert login_of(home) == "me:a-password-of-mine"


def test_a_new_store_is_its_owners_alone_and_one_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    private_folder(tmp_path / "above" / "store")
    assert stat.S_IMODE((tmp_path / "above" / "store").stat().st_mode) == 0o700
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    private_folder(shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755


def status(url: str, login: str = "") -> int:
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, json.dumps({}).encode(), headers), timeout=60
        ) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_an_embedded_server_asks_for_the_password(home: Path) -> None:
    with embedded_server(home / "store" / "prefect") as url:
        assert status(f"{url}/flows/count") == 401
        assert status(f"{url}/flows/count", "polychoir:guessed") == 401
        assert status(f"{url}/flows/count", login_of(home / "store" / "prefect")) == 200
    assert stat.S_IMODE((home / "store").stat().st_mode) == 0o700
