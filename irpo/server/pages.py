"""The two pages of a server: one where a person ranks documents, and what its routes take. Both need nothing else.

What comes from outside is text to the pages and never a part of them: the templates escape, the script writes texts
alone, and by the page's own rule (its Content-Security-Policy) no script or style runs but the one that is written in
it, and nothing is asked of any other place.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from irpo.resources import serve_dir


def ranking(names: Sequence[str], *, closed: bool) -> str:
    """The page where documents are ranked; `closed`: requests need a key, which it asks for."""
    return _page("page", names=names, closed=closed)


def documentation(openapi: Mapping[str, Any]) -> str:
    """The routes and what they take and answer, of an OpenAPI description."""
    return _page("docs", about=openapi["info"], routes=list(_routes(openapi)), forms=_forms(openapi))


@cache
def headers(name: str) -> dict[str, str]:
    """The headers of a page: what may run in it, and what it may ask."""
    parts = {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'"}
    parts |= {"style-src": _digest(_file("serve.css")), "img-src": "data:"}
    if name == "page":
        parts |= {"script-src": _digest(_file("page.js")), "connect-src": "'self'"}
    return {"content-security-policy": "; ".join(f"{key} {value}" for key, value in parts.items())}


def _page(name: str, **what: Any) -> str:
    css = Markup(_file("serve.css"))  # nosec B704 # a file of the package's
    script = Markup(_file("page.js"))  # nosec B704 # a file of the package's
    found: str = _templates().get_template(f"{name}.html.jinja").render(css=css, script=script, **what)
    return found


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(serve_dir()),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _file(name: str) -> str:
    return (serve_dir() / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _routes(openapi: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each route: method, path, what it does, the forms that it takes, and what a status says."""
    for path, methods in openapi["paths"].items():
        for method, told in methods.items():
            body = told.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            statuses = {status: each["description"] for status, each in told["responses"].items()}
            yield {
                "method": method.upper(),
                "path": path,
                "summary": told["summary"],
                "takes": [_last(each["$ref"]) for each in body.get("oneOf", [body]) if "$ref" in each],
                "statuses": statuses,
            }


def _forms(openapi: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each form that is taken or answered, with its fields."""
    schemas = openapi["components"]["schemas"]
    return [
        {
            "name": name,
            "description": schema.get("description", ""),
            "fields": [
                {
                    "name": field,
                    "kind": _kind(told),
                    "needed": field in schema.get("required", ()),
                    "description": told.get("description", ""),
                }
                for field, told in schema["properties"].items()
            ],
        }
        for name, schema in schemas.items()
        if "properties" in schema and "Error" not in name
    ]


def _kind(told: Mapping[str, Any]) -> str:
    """A field's type in words.

    >>> _kind({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]})
    'array of string or null'
    """
    if "$ref" in told:
        return _last(told["$ref"])
    if "anyOf" in told:
        return " or ".join(dict.fromkeys(_kind(each) for each in told["anyOf"]))
    if told.get("type") == "array":
        return f"array of {_kind(told['items'])}"
    return str(told.get("type", "anything"))


def _last(reference: str) -> str:
    return reference.rpartition("/")[2]
