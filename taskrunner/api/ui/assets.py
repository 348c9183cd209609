"""The files that pages load: from memory, compressed once, under names that change with what is in them."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from taskrunner.api.problems import problem

FOLDER = Path(__file__).with_name("static")
_KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_FOREVER = "public, max-age=31536000, immutable"


class Asset(NamedTuple):
    """One file as it is served."""

    kind: str
    plain: bytes
    packed: bytes
    url: str


@cache
def assets() -> dict[str, Asset]:
    """Return the files by the last part of their URLs; read once."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in _KINDS:
            content = path.read_bytes()
            mark = hashlib.sha256(content).hexdigest()[:12]
            name = f"{path.stem}.{mark}{path.suffix}"
            packed = gzip.compress(content, 9, mtime=0)
            found[name] = Asset(_KINDS[path.suffix], content, packed, f"/ui/static/{name}")
    return found


@cache
def asset_url(name: str) -> str:
    """Return the URL of a file by its name in the folder, as in `app.css`. Raises: `KeyError`."""
    stem, _, suffix = name.rpartition(".")
    for asset in assets().values():
        path = asset.url.rpartition("/")[2]
        if path.startswith(f"{stem}.") and path.endswith(f".{suffix}") and path.count(".") == name.count(".") + 1:
            return asset.url
    raise KeyError(name)


async def serve_asset(request: Request) -> Response:
    """Return a file; a name that it no longer has is not found."""
    asset = assets().get(request.path_params["name"])
    if asset is None:
        return problem(request, 404, f"there is no file {request.path_params['name']}: reload the page")
    headers = {"Cache-Control": _FOREVER, "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(asset.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=asset.kind)
    return Response(asset.plain, headers=headers, media_type=asset.kind)
