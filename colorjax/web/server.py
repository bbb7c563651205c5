"""The page's addresses → what the session does.

Nothing is served by a path: the page's files are read when it starts, photographs have ids of our
own. One job (a photograph read, or saved) runs at a time; beside it one edit is answered, which
takes milliseconds.
"""

import json
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import numpy as np
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from colorjax.media import files
from colorjax.media.film import FILM_SUFFIXES
from colorjax.web import saving
from colorjax.web.edit import Edit, RequestError
from colorjax.web.guard import Guard
from colorjax.web.session import Session

_PAGE = Path(__file__).parent / "page"
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_MOST_JSON = 2**20  # bytes of a request that is no upload


def application(session: Session, token: str, hosts: Collection[str]) -> Starlette:
    """Route the page and what it asks for, behind its guard.

    Args:
        session: holds the photographs; closed by the caller.
        token: see `Guard`.
        hosts: see `Guard`.
    """
    jobs, edits = CapacityLimiter(1), CapacityLimiter(1)

    async def job(work: Callable, *args: Any) -> Any:
        return await to_thread.run_sync(partial(work, *args), limiter=jobs)

    async def edit(work: Callable, *args: Any) -> Any:
        return await to_thread.run_sync(partial(work, *args), limiter=edits)

    async def state(request: Request) -> Response:
        await job(session.begin)
        decoding = session.colorizer.decoding
        rarity = None if decoding.bin_weights is None else decoding.rarity_power
        own = {"saturation": decoding.saturation, "rarity": rarity}
        return JSONResponse(
            {
                **own,
                "versions": _versions(**own),
                "suffixes": [*files.SUFFIXES, *FILM_SUFFIXES],
                "items": [item.to_json() for item in list(session.items.values())],
                "waiting": session.waiting(),
            }
        )

    async def add(request: Request) -> Response:
        name = _plain(request.query_params.get("name", ""))
        path = session.new_path(Path(name).suffix.lower()[:8])
        try:
            await _receive(request, path, session.max_bytes, name)
            item = await job(session.add, path, name)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return JSONResponse(item.to_json())

    async def add_given(request: Request) -> Response:
        number = (await _json(request)).get("number")
        return JSONResponse((await job(session.add_given, number)).to_json())

    async def remove(request: Request) -> Response:
        await job(session.remove, request.path_params["id"])
        return JSONResponse({})

    async def preview(request: Request) -> Response:
        side = _whole(request, "side")
        return _plane(await edit(session.preview, request.path_params["id"], side))

    async def detail(request: Request) -> Response:
        box = [_whole(request, name) for name in ("left", "top", "width", "height")]
        return _plane(await edit(session.detail, request.path_params["id"], *box))

    async def color(request: Request) -> Response:
        id = request.path_params["id"]
        wanted = Edit.from_json(await _json(request), session.get(id).size)
        remember = request.query_params.get("remember") == "1"
        return _plane(await edit(session.color, id, wanted, remember))

    async def suggest(request: Request) -> Response:
        place = await _json(request)
        id = request.path_params["id"]
        return JSONResponse(await edit(session.suggest, id, place.get("x"), place.get("y")))

    async def keep(request: Request) -> Response:
        item, wanted = session.get(request.path_params["id"]), (await _json(request)).get("keep")
        await edit(item.set_keep, wanted is True, session.colorizer.decoding)
        return JSONResponse({})

    async def hints(request: Request) -> Response:
        size = session.get(request.path_params["id"]).size
        read = Edit.from_file(await _body(request), size, session.colorizer.decoding)
        return JSONResponse(read.to_json())

    async def frame(request: Request) -> Response:
        time = (await _json(request)).get("time")
        item = await job(session.set_frame, request.path_params["id"], time)
        return JSONResponse(item.to_json())

    async def command(request: Request) -> Response:
        item = session.get(request.path_params["id"])
        return JSONResponse({"command": item.command(session.colorizer.decoding, session.weights)})

    async def save(request: Request) -> Response:
        format = (await _json(request)).get("format") or None
        path, name, notes = await job(saving.save, session, request.path_params["id"], format)
        return _file(path, name, notes)

    async def save_all(request: Request) -> Response:
        wanted = await _json(request)
        ids = [str(id) for id in wanted.get("ids", [])]
        path, notes = await job(saving.save_all, session, ids, wanted.get("format") or None)
        return _file(path, "coloured.zip", notes)

    one = "/api/photographs/{id}"
    routes = [
        *(Route(address, answer, methods=["GET"]) for address, answer in pages()),
        Route("/api/state", state),
        Route("/api/photographs", add, methods=["PUT"]),
        Route("/api/given", add_given, methods=["POST"]),
        Route("/api/zip", save_all, methods=["POST"]),
        Route(one, remove, methods=["DELETE"]),
        Route(f"{one}/preview", preview),
        Route(f"{one}/detail", detail),
        Route(f"{one}/command", command),
        Route(f"{one}/color", color, methods=["POST"]),
        Route(f"{one}/suggest", suggest, methods=["POST"]),
        Route(f"{one}/keep", keep, methods=["POST"]),
        Route(f"{one}/hints", hints, methods=["POST"]),
        Route(f"{one}/frame", frame, methods=["POST"]),
        Route(f"{one}/save", save, methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token, hosts=hosts)],
        exception_handlers={RequestError: _refusal, _TooLarge: _refusal},
    )


class _TooLarge(RequestError):
    """More bytes come than are taken."""


def _refusal(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"{error}."}, 413 if isinstance(error, _TooLarge) else 400)


def pages() -> list[tuple[str, Response]]:
    """Read the page's files: an address and its answer for each."""
    return [
        (
            "/" if path.name == "page.html" else f"/{path.name}",
            Response(path.read_bytes(), media_type=_KINDS[path.suffix]),
        )
        for path in sorted(_PAGE.iterdir())
        if path.suffix in _KINDS
    ]


def _versions(saturation: float, rarity: float | None) -> list[dict[str, Any]]:
    """Offer three ways to begin with: what the weights say, less, and more."""
    bolder = None if rarity is None else round(rarity + 0.5, 2)
    return [
        {
            "name": name,
            "about": about,
            "saturation": round(factor * saturation, 3),
            "rarity": power,
        }
        for name, about, factor, power in (
            ("Faithful", "Less colour where the network is unsure", 0.75, rarity),
            ("Default", "As the weights were calibrated", 1.0, rarity),
            ("Bold", "More colour, and rare colours likelier", 1.35, bolder),
        )
    ]


def _plain(name: str) -> str:
    """Clean a file's name for the person: no folders, nothing that does not print."""
    name = "".join(sign for sign in name if sign.isprintable()).replace("\\", "/")
    return name.rpartition("/")[2][:200].strip() or "photograph"


def _whole(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise RequestError(f"{name} is {text!r}: it must be a whole number")
    return int(text)


async def _receive(request: Request, path: Path, most: int, name: str) -> None:
    """Write an upload as it comes; it is counted, for a header may lie about its length."""
    limit = f"{name} is larger than {most / 2**20:,.0f} MiB: name it on the command line"
    promised = request.headers.get("content-length", "")
    if promised.isdecimal() and int(promised) > most:
        raise _TooLarge(limit)
    size = 0
    try:
        async with await anyio.open_file(path, "xb") as file:
            async for chunk in request.stream():
                if (size := size + len(chunk)) > most:
                    raise _TooLarge(limit)
                await file.write(chunk)
    except OSError as error:
        raise RequestError(f"{name} could not be stored: {error.strerror}") from None
    except ClientDisconnect:
        raise RequestError(f"{name} broke off") from None
    if not size:
        raise RequestError(f"{name} is empty")


async def _body(request: Request) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MOST_JSON:
            raise _TooLarge("this is more than a page has to say")
    return bytes(data)


async def _json(request: Request) -> dict[str, Any]:
    body = await _body(request)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError("the request is no JSON") from None
    if not isinstance(value, dict):
        raise RequestError("the request is no object")
    return value


def _plane(values: np.ndarray) -> Response:
    """Send numbers as they lie in memory: uint8 `H W`, or float32 `h w 2`, little-endian."""
    kind = "u1" if values.dtype == np.uint8 else "<f4"
    shape = {"x-rows": str(values.shape[0]), "x-columns": str(values.shape[1])}
    content = np.ascontiguousarray(values, kind).tobytes()
    return Response(content, media_type="application/octet-stream", headers=shape)


def _file(path: Path, name: str, notes: list[str]) -> Response:
    headers = {"x-name": quote(name), "x-notes": quote(json.dumps(notes))}
    after = BackgroundTask(path.unlink, missing_ok=True)
    kind = "application/octet-stream"
    return FileResponse(path, media_type=kind, headers=headers, background=after)
