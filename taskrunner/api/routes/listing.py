"""What the routes of lists share: where the next page is."""

from __future__ import annotations

from fastapi import Request, Response


def link_next(request: Request, response: Response, after: object) -> None:
    """Say in the header `Link` where the next page is, unless `after` is None: this was the last."""
    if after is not None:
        url = request.url.include_query_params(after=after)
        response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
