"""The console: its live page, its login, its event stream, its files.

The cookie is HttpOnly and SameSite=Strict; forms are accepted from our own origin only. The page
reads without JavaScript: figures and lines are rendered here, the script only renews them.
"""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import parse_qs

import orjson
from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse, RedirectResponse, StreamingResponse

from libs.common.errors import NotFoundError, UnauthenticatedError
from services.gateway.domain.ports import ConsoleFigures, LoginDesk
from services.gateway.routes.console_view import COOKIE, FOLDER, html, require_same_origin

router = APIRouter(tags=["console"], include_in_schema=False)

_COOKIE_AGE_S = 8 * 3_600
_TICK_S = 1.0
_FILES = {
    "console.css": "text/css",
    "console.js": "text/javascript",
    "story.js": "text/javascript",
    "renew.js": "text/javascript",
    "mark.svg": "image/svg+xml",
}


@router.get("/console")
async def console(request: Request) -> Response:
    """Show the page."""
    figures: ConsoleFigures = request.state.figures
    return html(request, "console.html", figures=figures.snapshot())


@router.get("/console/login")
async def login_form(request: Request) -> Response:
    """Show the login form."""
    return html(request, "login.html", problem="")


@router.post("/console/login")
async def login(request: Request) -> Response:
    """Open a session for the API key, or for name and password, in the form."""
    require_same_origin(request)
    desk: LoginDesk = request.state.desk
    form = parse_qs((await request.body()).decode("utf-8", "replace"))
    network = request.scope["gatehouse.network"]
    username = form.get("username", [""])[0].strip()
    try:
        if username:
            password = form.get("password", [""])[0]
            session = await desk.login_person(username, password, network)
        else:
            session = await desk.login(form.get("api_key", [""])[0].strip(), network)
    except UnauthenticatedError:
        problem = "Name or password is wrong." if username else "This key is not valid."
        return html(request, "login.html", 401, problem=f"{problem} Check it and try again.")
    response = RedirectResponse("/console", 303, headers={"cache-control": "no-store"})
    response.set_cookie(
        COOKIE,
        session,
        max_age=_COOKIE_AGE_S,
        path="/console",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/console/logout")
async def logout(request: Request) -> Response:
    """Close the session."""
    require_same_origin(request)
    desk: LoginDesk = request.state.desk
    await desk.logout(request.cookies.get(COOKIE, ""))
    response = RedirectResponse("/console/login", 303)
    response.delete_cookie(COOKIE, path="/console", httponly=True, samesite="strict")
    return response


@router.get("/console/events")
async def events(request: Request) -> Response:
    """Stream the figures, one event per second, until the caller leaves or the process drains."""
    figures: ConsoleFigures = request.state.figures

    async def stream() -> AsyncIterator[bytes]:
        number = 0
        yield b"retry: 2000\n\n"
        while not figures.is_draining:
            number += 1
            data = orjson.dumps(figures.snapshot()).decode()
            yield f"id: {number}\nevent: figures\ndata: {data}\n\n".encode()
            await asyncio.sleep(_TICK_S)

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)


@router.get("/console/assets/{name}")
async def asset(name: str) -> Response:
    """Give one file of the page."""
    if name not in _FILES:
        raise NotFoundError("No such file.")
    headers = {"cache-control": "no-cache"}
    return FileResponse(FOLDER / "static" / name, media_type=_FILES[name], headers=headers)
