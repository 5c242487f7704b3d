"""What the HTML pages share: their style, how a template is filled, and how numbers are written."""

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup


def render(template: str, filters: Mapping[str, Callable[..., str]], **values: Any) -> str:
    """The page of a template, whose ``style`` is that of all pages. Whatever comes from the data is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, **filters}
    style = (files("more_scvi") / "_page.css").read_text(encoding="utf-8")
    return environment.from_string(template).render(style=Markup("\n" + style), **values)


def number(value: float | None, digits: int = 0) -> str:
    """A number with commas between thousands, and a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")
