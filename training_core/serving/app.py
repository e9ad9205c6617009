"""The HTTP application around a model: its paths, and how refusals look."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException as RoutingError
from starlette.requests import ClientDisconnect

from training_core.serving.config import ServingConfig
from training_core.serving.current import CurrentModel
from training_core.serving.desk import Desk
from training_core.serving.gate import AUTHORISED, ROWS, Gate, error_body
from training_core.serving.interface import model_schema, openapi_of_predict, openapi_parts
from training_core.serving.meters import Meters
from training_core.serving.page import docs_page
from training_core.serving.requests import RefusedError


def make_app(current: CurrentModel, config: ServingConfig) -> FastAPI:
    """The application that answers for `current`, which it follows while it runs.

    Raises:
        ConfigError: the environment variable with the token is not set.
    """
    meters = Meters()
    desk = Desk(current, config, meters)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        current.follow(config.check_seconds)
        yield
        current.stop()
        desk.close()

    app = _Described(
        current,
        title="Polychoir model",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        lifespan=lifespan,
        exception_handlers={
            RefusedError: _refused,
            RoutingError: _no_such_path,
            ClientDisconnect: _gone,
        },
    )
    config.token()  # not only when the first request comes
    app.add_middleware(Gate, config=config, meters=meters)  # pyright: ignore[reportArgumentType]

    @app.post("/predict", summary="Answer one sample or several", openapi_extra=openapi_of_predict())
    async def predict(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RefusedError("send JSON and say so: Content-Type: application/json", 415)
        length = request.headers.get("content-length", "")
        answer, num_rows = await desk.answer(
            request.stream(), int(length) if length.isdecimal() and len(length) < 19 else 0
        )
        request.scope[ROWS] = num_rows
        return Response(answer, media_type="application/json")

    @app.get("/health", summary="Whether it answers, and with which version")
    async def health(request: Request) -> Response:
        told: dict[str, Any] = {"status": "degraded" if current.problem else "ok"}
        if request.scope[AUTHORISED]:
            told |= {"model": current.now.uri, "since": current.now.since, "problem": current.problem}
        return JSONResponse(told)

    @app.get("/schema", summary="What each modality looks like")
    async def schema() -> Response:
        return JSONResponse(model_schema(current.now.ensemble, current.now.uri, config))

    @app.get("/metrics", summary="Counts and times, for Prometheus")
    async def metrics() -> Response:
        return PlainTextResponse(meters.text(current, desk.in_progress), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return HTMLResponse(docs_page(current.now, config, str(request.base_url).rstrip("/")))

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("/docs")

    return app


class _Described(FastAPI):
    """An application whose OpenAPI description is that of the model which answers now."""

    def __init__(self, current: CurrentModel, **settings: Any) -> None:
        self._current = current
        super().__init__(**settings)

    def openapi(self) -> dict[str, Any]:
        ensemble = self._current.now.ensemble
        about = f"An ensemble for {ensemble.task.kind} that answers whatever modalities a sample lacks."
        made = get_openapi(title=ensemble.name, version=self.version, description=about, routes=self.routes)
        made["components"] = {"schemas": openapi_parts(ensemble)}
        return made


async def _refused(_: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, RefusedError) else 422
    headers = {"Retry-After": "1"} if status == 503 else {}
    if status in {408, 413}:  # the rest of the body is not read
        headers["Connection"] = "close"
    return Response(error_body(str(error)), status, headers, media_type="application/json")


async def _no_such_path(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException | RoutingError) else 404
    known = "POST /predict, GET /schema, GET /health, GET /metrics, GET /docs"
    message = f"there is no {request.method} here; there are {known}" if status in {404, 405} else "refused"
    return Response(error_body(message), status, media_type="application/json")


async def _gone(_: Request, error: Exception) -> Response:
    return Response(error_body("the connection was closed"), 400, media_type="application/json")
