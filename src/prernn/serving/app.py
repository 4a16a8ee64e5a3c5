"""The server's routes: ``/stream``, ``/predict``, ``/healthz``, ``/metrics``; ``/docs`` describes them."""

from typing import Annotated

from fastapi import FastAPI, Header, Query, Request, Response, WebSocket
from fastapi.responses import JSONResponse

import prernn
from prernn.serving.live import check_origin, live
from prernn.serving.page.routes import add_page
from prernn.serving.service import Service, TurnedAway
from prernn.serving.uploads import rows_of_video

VIDEO = {"requestBody": {"required": True, "content": {"video/*": {"schema": {"type": "string", "format": "binary"}}}}}
STATUS = {"full": 503, "stopping": 503, "token": 401, "origin": 403}


def app_for(service: Service, page: bool = False) -> FastAPI:
    """The application that serves a model, optionally with the page at ``/``."""
    app = FastAPI(title="prernn", version=prernn.__version__, description=DESCRIPTION)

    @app.exception_handler(TurnedAway)
    async def turned_away(request: Request, error: TurnedAway) -> JSONResponse:
        service.metrics.turned_away.labels(error.why).inc()
        return JSONResponse({"detail": str(error)}, STATUS[error.why])

    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        await live(service, socket, _token(socket.headers.get("authorization")) or socket.query_params.get("token"))

    @app.post("/predict", openapi_extra=VIDEO, summary="The rows of a whole video, one line of JSON each")
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=0, le=1000, description="number of most probable labels")] = 0,
        authorization: Annotated[str | None, Header()] = None,
    ) -> Response:
        check_origin(request.headers)
        service.check(_token(authorization))
        return await rows_of_video(service, request, top)

    @app.get("/healthz", summary="Whether new clients are accepted")
    async def health() -> JSONResponse:
        state = "stopping" if service.stopping else "ok"
        return JSONResponse({"status": state, "version": prernn.__version__}, 503 if service.stopping else 200)

    @app.get("/metrics", summary="Counters for Prometheus")
    async def metrics(authorization: Annotated[str | None, Header()] = None) -> Response:
        service.check(_token(authorization))
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    if page:
        add_page(app, service)

    return app


def _token(header: str | None) -> str | None:
    """The token of an Authorization header."""
    kind, _, token = (header or "").partition(" ")
    return token if kind.lower() == "bearer" else None


DESCRIPTION = """\
A recurrent network over many live streams. `GET /stream` is a WebSocket, which this page cannot show:

1. send a hello as JSON, `{}` for all defaults: `frames` ("jpeg", or "rgb" with `width` and `height`), `times`, `fps`,
   `drop` ("oldest", "none"), `reset`, `top`, `activity`, `state`, `token`;
2. get `{"type": "started", ...}`;
3. send each frame as a binary message, and get one answer with its number,
   `{"type": "frame", "message": 0, "rows": [...], ...}`, or of type "skipped" (the clock does not need it), "dropped"
   (newer ones came) or "refused";
4. send `{"type": "reset"}` to reset the state, `{"type": "state"}` to save it, `{"type": "end"}` when there are no
   more frames, which is answered by the rows that were still due.
"""
