"""GET /: the page for people, and the files it is made of. What it shows, it asks of /v1 like any other client.

The documentation is here too: GET /docs for people, GET /openapi.json for programs.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse

from service.errors import NotFound

FOLDER = Path(__file__).parents[1] / "web"
INDEX = "index.html"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".png": "image/png"}
HEADERS = {
    # nothing from elsewhere, nothing inline: a file name that is shown can't become a script
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # after an update, no old script meets a new page
}
READ = ["GET", "HEAD"]
PREFIX = "app_root_path"  # in a request's scope: what it was found behind; Starlette's name, for addresses in answers
OFFLINE = b"""
    <p>Where nothing else appears, this browser can't reach cdn.jsdelivr.net, which Swagger UI comes from.
    <a href="openapi.json">openapi.json</a> says the same for any other such program.</p>"""


def router() -> APIRouter:
    """The routes; the files are read once, here."""
    files = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    routes = APIRouter(include_in_schema=False)

    @routes.api_route("/", methods=READ)
    async def index() -> Response:
        return _response(INDEX, files[INDEX])

    @routes.get("/docs")
    async def documentation() -> Response:
        """Swagger UI, whose scripts the browser fetches from a content delivery network; by relative addresses else."""
        document = get_swagger_ui_html(openapi_url="openapi.json", title="Convoy's API").body
        return HTMLResponse(bytes(document).replace(b'<div id="swagger-ui">', b'<div id="swagger-ui">' + OFFLINE))

    @routes.api_route("/openapi.json", methods=READ)
    async def document(request: Request) -> Response:
        """As FastAPI's own, which is no route that requests are counted by: with the prefix that it is found behind."""
        prefix = request.scope.get(PREFIX, "")
        return JSONResponse(request.app.openapi() | ({"servers": [{"url": prefix}]} if prefix else {}))

    @routes.get("/web/{name}")
    async def file(name: str) -> Response:
        if name not in files:
            raise NotFound("The page has no such file.")
        return _response(name, files[name])

    return routes


def _response(name: str, content: bytes) -> Response:
    return Response(content, media_type=MEDIA_TYPES[Path(name).suffix], headers=HEADERS)
