"""What the pages of the console share: templates, headers, forms that only our own pages send."""

import hashlib
import hmac
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from fastapi import Request, Response
from jinja2 import Environment, FileSystemLoader, select_autoescape

from libs.common.errors import ForbiddenError

COOKIE = "gatehouse_session"
FOLDER = Path(__file__).resolve().parents[1]
POLICY = (
    "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; "
    "object-src 'none'"
)
HEADERS = {"content-security-policy": POLICY, "cache-control": "no-store"}
# The pages in the order of the bar: name, title.
PAGES = (
    ("live", "Live"),
    ("request", "Request"),
    ("models", "Models"),
    ("analytics", "Analytics"),
    ("guardrails", "Guardrails"),
    ("features", "Features"),
    ("audit", "Audit"),
    ("system", "System"),
)


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _span(seconds: float | None) -> str:
    """Give a duration as a person says it."""
    if seconds is None:
        return "-"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


templates = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=select_autoescape(),
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.filters |= {"bytes": _bytes, "span": _span}
templates.globals["pages"] = PAGES


def form_token(request: Request) -> str:
    """Give what a form of this session must bring; empty where no cookie could be abused."""
    session = request.cookies.get(COOKIE, "")
    return hashlib.sha256(f"form|{session}".encode()).hexdigest()[:32] if session else ""


def html(request: Request, template: str, code: int = 200, **values: object) -> Response:
    """Render a page."""
    text = templates.get_template(template).render(token=form_token(request), **values)
    return Response(text, code, media_type="text/html; charset=utf-8", headers=dict(HEADERS))


def require_same_origin(request: Request) -> None:
    """Refuse forms that another site sent.

    Raises:
        ForbiddenError: the browser says that the form comes from elsewhere.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise ForbiddenError("This form was sent from another site.", code="cross_site")
    origin = request.headers.get("origin")
    if origin and urlsplit(origin).netloc != request.headers.get("host"):
        raise ForbiddenError("This form was sent from another site.", code="cross_site")


async def form_of(request: Request) -> dict[str, str]:
    """Give the fields of a form that one of our pages sent.

    Raises:
        ForbiddenError: it comes from elsewhere, or its token is not this session's.
    """
    require_same_origin(request)
    fields = parse_qs((await request.body()).decode("utf-8", "replace"), keep_blank_values=True)
    form = {name: values[0] for name, values in fields.items()}
    if not hmac.compare_digest(form.get("token", ""), form_token(request)):
        raise ForbiddenError(
            "The form is not of this session.", code="cross_site", hint="Reload the page."
        )
    return form
