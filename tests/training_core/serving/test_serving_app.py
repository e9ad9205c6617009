import asyncio
import base64
import io
import json
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import openapi_spec_validator
import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator

from tests.training_core.export.small_ensemble import small_samples
from tests.training_core.serving.fixed_model import current_of
from training_core.errors import ConfigError
from training_core.selection.ensemble import Ensemble
from training_core.serving.app import make_app
from training_core.serving.config import ServingConfig
from training_core.serving.desk import Desk
from training_core.serving.meters import Meters
from training_core.serving.requests import RefusedError

ROW = {"vec": [1, 2, 3, 4], "meta": {"age": 31, "city": "Bonn"}, "review": "good"}
TOKEN = "a-token-of-some-length"


@contextmanager
def client(ensemble: Ensemble, **settings: object) -> Iterator[TestClient]:
    app = make_app(current_of(ensemble), ServingConfig.parse(settings, "test"))
    with TestClient(app, base_url="http://127.0.0.1:8770", raise_server_exceptions=False) as made:
        yield made


class Slow(Ensemble):
    """An ensemble that answers when it is told to."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__(ensemble.manifest, ensemble.folder)
        self.asked, self.go_on = threading.Event(), threading.Event()
        self.waits = False

    def predict(self, samples, weighting="selected"):
        if self.waits:
            self.asked.set()
            self.go_on.wait(30)
        return super().predict(samples, weighting)


def test_one_sample_and_many_are_answered_alike(ensemble: Ensemble):
    samples = small_samples(ensemble.spec, 8, seed=4)
    file = io.BytesIO()
    np.save(file, np.where(samples.available["vec"][:, None], samples.inputs["vec"], np.nan))
    table = {name: samples.inputs["meta"][:, i].tolist() for i, name in enumerate(("age", "size"))}
    table["age"][4] = None
    cities = ["Bonn", "Köln", "7"]
    inputs = {
        "vec": {"npy": base64.b64encode(file.getvalue()).decode()},
        "meta": table | {"city": [cities[int(code)] for code in samples.inputs["meta"][:, 2]]},
        "review": [
            text if here else None
            for text, here in zip(samples.inputs["review"], samples.available["review"], strict=True)
        ],
    }
    expected = ensemble.predict(samples)
    with client(ensemble) as http:
        many = http.post("/predict", json={"inputs": inputs}).json()
        one = http.post("/predict", json={"sample": {"review": inputs["review"][0]}, "ids": ["mine"]}).json()
    assert many["model"] == "models:/small/1"
    probabilities = [list(row["probabilities"].values()) for row in many["predictions"]]
    np.testing.assert_allclose(probabilities, expected.values, atol=1e-12)
    assert one["predictions"][0]["id"] == "mine" and one["predictions"][0]["missing"] == ["vec", "meta"]


def test_refusals_are_one_sentence_of_json_with_their_status(ensemble: Ensemble):
    with client(ensemble, max_rows=2, max_bytes=2000) as http:
        cases = [
            (http.post("/predict", content=b"{", headers={"content-type": "application/json"}), 400),
            (http.post("/predict", content=json.dumps({"sample": ROW}), headers={"content-type": "text/plain"}), 415),
            (http.post("/predict", json={"samples": [ROW] * 3}), 413),
            (http.post("/predict", json={"sample": {"review": "x" * 2000}}), 413),
            (
                http.post("/predict", content=iter([b"x" * 1500] * 3), headers={"content-type": "application/json"}),
                413,
            ),
            (http.post("/predict", json={"sample": {"vek": 1}}), 422),
            (http.get("/predict"), 405),
            (http.get("/../etc/passwd"), 404),
            (http.get("/health", headers={"host": "evil.example"}), 400),
        ]
    for response, status in cases:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/json"
        assert set(response.json()) == {"error"} and "\n" not in response.json()["error"]


def test_answers_carry_headers_that_keep_browsers_from_guessing(ensemble: Ensemble):
    with client(ensemble) as http:
        headers = http.get("/docs").headers
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    ("host", "allowed", "status"),
    [
        ("127.0.0.1:8770", (), 200),
        ("LOCALHOST:1", (), 200),
        ("[::1]:8770", (), 200),
        ("", (), 400),
        ("models.example.org", (), 400),
        ("models.example.org:443", ("models.example.org",), 200),
        ("127.0.0.1.evil.example", (), 400),
        ("localhost.evil.example", (), 400),
        ("anything", ("*",), 200),
    ],
)
def test_only_known_names_are_answered(ensemble: Ensemble, host: str, allowed: tuple[str, ...], status: int):
    with client(ensemble, allowed_hosts=allowed) as http:
        assert http.get("/health", headers={"host": host}).status_code == status


def test_with_a_token_only_those_who_bring_it_are_answered(ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SMALL_TOKEN", TOKEN)
    with client(ensemble, token_env="SMALL_TOKEN") as http:
        for path in ("/schema", "/metrics", "/docs", "/openapi.json", "/"):
            refused = http.get(path, follow_redirects=False)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        for given in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", "Bearer é"):
            assert http.post("/predict", json={}, headers={"authorization": given.encode("latin-1")}).status_code == 401
        assert http.get("/health").json() == {"status": "ok"}
        mine = {"authorization": f"bearer {TOKEN}"}
        assert http.get("/health", headers=mine).json()["model"] == "models:/small/1"
        assert http.post("/predict", json={"sample": ROW}, headers=mine).status_code == 200


@pytest.mark.parametrize(("value", "says"), [(None, "not set"), ("short", "too short"), ("é" * 30, "not ASCII")])
def test_a_token_that_is_none_is_refused_at_the_start(ensemble, monkeypatch, value: str | None, says: str):
    monkeypatch.delenv("SMALL_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("SMALL_TOKEN", value)
    with pytest.raises(ConfigError, match=says):
        make_app(current_of(ensemble), ServingConfig(token_env="SMALL_TOKEN"))


def test_other_machines_are_served_with_a_token_only():
    for host in ("0.0.0.0", "192.168.1.4", "::", "models.example.org"):
        with pytest.raises(ConfigError, match="anyone who reaches"):
            ServingConfig.parse({"host": host}, "serve")
        assert ServingConfig(host=host, token_env="X").host == host
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        ServingConfig(host=host)


def test_schema_and_openapi_describe_this_model(ensemble: Ensemble, multilabel: Ensemble, regression: Ensemble):
    for one in (ensemble, multilabel, regression):
        with client(one) as http:
            schema, openapi = http.get("/schema").json(), http.get("/openapi.json").json()
            answer = http.post("/predict", json=schema["example"]).json()
        openapi_spec_validator.validate(openapi)
        assert [modality["name"] for modality in schema["modalities"]] == list(one.spec.names)
        assert schema["modalities"][1]["columns"][2]["categories"] == ["Bonn", "Köln", "7"]
        assert set(openapi["paths"]) == {"/predict", "/health", "/schema", "/metrics"}
        parts = openapi["components"]["schemas"]
        for name, value in (("Request", schema["example"]), ("Answer", answer)):
            checked = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": parts}}
            Draft202012Validator(checked).validate(value)
        wrong = {"$ref": "#/components/schemas/Request", "components": {"schemas": parts}}
        assert not Draft202012Validator(wrong).is_valid({"sample": {"vek": 1}})


def test_the_page_loads_nothing_from_elsewhere(ensemble: Ensemble):
    with client(ensemble) as http:
        page = http.get("/docs").text
        assert http.get("/").url.path == "/docs"
    assert not re.search(r"<script|<link|src=|@import|https://", page)
    assert "curl http://127.0.0.1:8770/predict" in page and "Köln" in page


def test_metrics_count_without_telling_what_was_asked(ensemble: Ensemble):
    with client(ensemble) as http:
        http.post("/predict", json={"samples": [ROW, {"review": "secretword"}]})
        http.post("/predict", json={"sample": {"vek": 1}})
        http.get("/secretword")
        text = http.get("/metrics").text
    assert 'polychoir_requests_total{path="/predict",status="200"} 1' in text
    assert 'polychoir_requests_total{path="/predict",status="422"} 1' in text
    assert 'polychoir_requests_total{path="other",status="404"} 1' in text
    assert "polychoir_rows_total 2" in text
    assert 'polychoir_missing_total{modality="vec"} 1' in text
    assert 'polychoir_model_info{model="models:/small/1"} 1' in text
    assert "polychoir_answer_seconds_count 1" in text and "secretword" not in text
    for line in text.splitlines():
        assert re.fullmatch(
            r"# (HELP|TYPE) polychoir_\w+ .+|polychoir_\w+(\{\w+=\".*\"\})? [\d.e+-]+|.*,status=.*", line
        )


def test_the_log_has_a_line_per_request_and_nothing_of_the_data(ensemble: Ensemble, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "training_core.serving"), client(ensemble) as http:
        http.post("/predict?secretword=1", json={"samples": [{"review": "secretword"}], "ids": ["secretword"]})
        http.post("/predict", json={"samples": [{"secretword": 1}]})
        http.get("/secretword%0Aforged line")
    lines = [record.getMessage() for record in caplog.records if record.name == "training_core.serving.gate"]
    assert [line.split(" ")[:4] for line in lines] == [
        ["POST", "/predict", "200", "1"],
        ["POST", "/predict", "422", "0"],
        ["GET", "other", "404", "0"],
    ]
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("training_core")]
    assert "secretword" not in " ".join(ours)


def test_a_bug_is_an_answer_without_details(ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("training_core.serving.desk.answer_rows", fail)
    with client(ensemble) as http:
        answer = http.post("/predict", json={"sample": ROW})
        assert answer.status_code == 500 and "secret" not in answer.text and "bug" in answer.json()["error"]
        assert http.get("/health").status_code == 200


def test_the_health_page_says_why_an_old_model_answers(ensemble: Ensemble):
    current = current_of(ensemble)
    with TestClient(make_app(current, ServingConfig()), base_url="http://localhost") as http:
        assert http.get("/health").json()["status"] == "ok"
        current._note("models:/small/2 cannot be served: torn")
        told = http.get("/health").json()
    assert told["status"] == "degraded" and "torn" in told["problem"] and told["model"] == "models:/small/1"


def desk_of(ensemble: Ensemble, **settings: object) -> Desk:
    return Desk(current_of(ensemble), ServingConfig.parse(settings, "test"), Meters())


async def body_of(*chunks: bytes, pause: float = 0.0):
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(pause)


def test_a_body_that_comes_too_slowly_is_given_up(ensemble: Ensemble):
    desk = desk_of(ensemble, timeout_seconds=0.05)
    with pytest.raises(RefusedError, match="took longer") as refused:
        asyncio.run(desk.answer(body_of(b"{", b"}", pause=5), 0))
    assert refused.value.status == 408 and desk.in_progress == 0


def test_a_body_announced_too_long_is_not_read(ensemble: Ensemble):
    async def never():
        raise AssertionError("it was read")
        yield b""

    with pytest.raises(RefusedError, match="longer than") as refused:
        asyncio.run(desk_of(ensemble, max_bytes=10).answer(never(), 11))
    assert refused.value.status == 413


def test_who_finds_no_place_or_waits_too_long_is_told_so(ensemble: Ensemble):
    slow = Slow(ensemble)
    desk = desk_of(slow, timeout_seconds=20, max_waiting=2)
    slow.waits = True
    body = json.dumps({"sample": ROW}).encode()

    async def crowd() -> list[object]:
        asked = [asyncio.create_task(desk.answer(body_of(body), len(body))) for _ in range(4)]
        while not slow.asked.is_set() or sum(task.done() for task in asked) < 2:
            await asyncio.sleep(0.01)
        slow.go_on.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(crowd())
    refused = [answer for answer in answers if isinstance(answer, RefusedError)]
    assert [one.status for one in refused] == [503, 503] and "2 requests" in str(refused[0])
    assert sum(isinstance(answer, tuple) for answer in answers) == 2 and desk.in_progress == 0


def test_an_answer_that_takes_too_long_is_given_up(ensemble: Ensemble):
    slow = Slow(ensemble)
    desk = desk_of(slow, timeout_seconds=0.2)
    slow.waits = True
    with pytest.raises(RefusedError, match="no answer within") as refused:
        asyncio.run(desk.answer(body_of(json.dumps({"sample": ROW}).encode()), 0))
    slow.go_on.set()
    desk.close()
    assert refused.value.status == 503


def test_answers_of_threads_are_those_of_one(ensemble: Ensemble):
    desk = desk_of(Ensemble.load(ensemble.folder), workers=4, max_waiting=40)
    bodies = [
        json.dumps({"sample": {name: ROW[name] for name in names}}).encode()
        for names in (["vec"], ["meta"], ["review"], ["vec", "meta"], ["vec", "meta", "review"])
    ]

    async def all_at_once(times: int) -> list[bytes]:
        asked = [desk.answer(body_of(body), len(body)) for _ in range(times) for body in bodies]
        return [answer for answer, _ in await asyncio.gather(*asked)]

    alone = [asyncio.run(desk.answer(body_of(body), len(body)))[0] for body in bodies]
    assert asyncio.run(all_at_once(6)) == alone * 6
