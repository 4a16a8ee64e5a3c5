"""The page on a server: its files at ``/``, and what it needs to know first in ``/about.json``."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from prernn.serving.service import Service

FILES = Path(__file__).parent / "files"
"""HTML, CSS and JavaScript, which need no build step."""

HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",  # the rest is in the page itself, for static hosts
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # makes the browser check for a newer version
}


def add_page(app: FastAPI, service: Service) -> None:
    """Adds the page, which comes after all other routes."""

    @app.get("/about.json", include_in_schema=False)
    async def about() -> JSONResponse:
        return JSONResponse(about_server(service))

    app.mount("/", _Files(directory=FILES, html=True))


def about_server(service: Service) -> dict[str, Any]:
    """What the page needs to know before it can say hello; nothing that a token protects."""
    clock = service.model.clock()
    return {
        "runs": "server",
        "task": service.model.task.name,
        "token": service.token is not None,
        "fps": clock.rate,
        "most_fps": service.limits.fps,
    }


class _Files(StaticFiles):
    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers.update(HEADERS)
        return response
