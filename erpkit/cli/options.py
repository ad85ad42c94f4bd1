"""The options and arguments that commands share, each declared once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

__all__ = ["as_json", "confirm_option", "limit_option", "tenant_argument", "tenants_argument", "tenants_option"]

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

as_json: _Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
tenant_argument: _Decorator = click.argument("slug")
tenants_argument: _Decorator = click.argument("slugs", nargs=-1)


def tenants_option(help: str = "Only this tenant; may be repeated.") -> _Decorator:
    """Take `--tenant` any number of times, as `slugs`; a pattern such as `a*` stands for several tenants."""
    return click.option("--tenant", "slugs", multiple=True, metavar="SLUG", help=help)


def confirm_option(help: str = "Apply the plan with this id; without it, show it.") -> _Decorator:
    """Take the id of a plan, as `confirm`; "" without it."""
    return click.option("--confirm", default="", metavar="PLAN_ID", help=help)


def limit_option(default: int, help: str = "How many, the newest first.", *, most: int | None = None) -> _Decorator:
    """Take a number of lines from 1, as `limit`."""
    return click.option("--limit", type=click.IntRange(1, most), default=default, show_default=True, help=help)
