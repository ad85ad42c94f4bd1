"""Starting and stopping modules in order, and who a request is for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from erpkit.app.application import dependents_of, import_optional, started
from erpkit.app.http import check_domain, tenant_of
from erpkit.errors import ErpkitError, ModuleError, UsageError
from erpkit.modules import Module, load_order
from erpkit.modules.module import Lifespan

Tell = Callable[[str], None]


def living(name: str, tell: Tell, fails: str = "") -> Lifespan:
    @contextmanager
    def lifespan(needs: Mapping[str, Any]) -> Iterator[str]:
        if fails == "start":
            raise ConnectionError("no printer\nat all")
        tell(f"{name} starts with {', '.join(needs.values()) or 'nothing'}")
        yield f"the {name}"
        if fails == "stop":
            raise ConnectionError("it hangs")
        tell(f"{name} stops")

    return lifespan


def shop(tell: Tell, **fails: str) -> tuple[Any, ...]:
    needs = {
        "catalog": (),
        "sales": ("catalog",),
        "stock": ("catalog", "sales"),
        "billing": ("stock", "quiet"),
        "quiet": (),
    }
    return load_order(
        Module(name, others, lifespan=None if name == "quiet" else living(name, tell, fails.get(name, "")))
        for name, others in needs.items()
    )


def test_modules_start_with_what_they_depend_on_and_stop_in_reverse() -> None:
    told: list[str] = []
    with started(shop(told.append)) as public:
        assert public == {name: f"the {name}" for name in ("catalog", "sales", "stock", "billing")}
        assert told == [
            "catalog starts with nothing",
            "sales starts with the catalog",
            "stock starts with the catalog, the sales",
            "billing starts with the stock",
        ]
        told.clear()
    assert told == ["billing stops", "stock stops", "sales stops", "catalog stops"]


def test_a_module_that_does_not_start_names_itself_and_those_that_need_it_and_the_others_stop() -> None:
    told: list[str] = []
    with pytest.raises(ModuleError) as raised, started(shop(told.append, sales="start")):
        pytest.fail("it started")
    assert str(raised.value) == (
        "module sales did not start: ConnectionError: no printer; stock, billing need it: nothing is running"
    )
    assert told == ["catalog starts with nothing", "catalog stops"]


def test_a_module_that_does_not_stop_is_named_and_holds_up_no_other() -> None:
    told: list[str] = []
    said = "module stock did not stop: ConnectionError: it hangs"
    with pytest.raises(ModuleError, match=said), started(shop(told.append, stock="stop")):
        told.clear()
    assert told == ["billing stops", "sales stops", "catalog stops"]


def test_an_error_inside_stops_the_modules_too_and_stays_the_error() -> None:
    told: list[str] = []
    with pytest.raises(KeyError) as raised, started(shop(told.append, stock="stop")):
        told.clear()
        raise KeyError("inside")
    assert told == ["billing stops", "sales stops", "catalog stops"]
    assert raised.value.__notes__ == ["module stock did not stop: ConnectionError: it hangs"]


def test_who_needs_a_module_counts_those_that_need_it_by_way_of_others() -> None:
    modules = shop(lambda _: None)
    assert dependents_of("sales", modules) == ["stock", "billing"]
    assert dependents_of("billing", modules) == []


@pytest.mark.parametrize(
    ("headers", "domain", "tenant"),
    [
        ({}, None, None),
        ({"X-Tenant": " acme "}, None, "acme"),
        ({"X-Tenant": ""}, None, None),
        ({"Host": "acme.erp.test"}, None, None),
        ({"Host": "acme.erp.test:8443"}, "erp.test", "acme"),
        ({"Host": "Delta-Tools.erp.test."}, "erp.test", "delta_tools"),
        ({"Host": "erp.test"}, "erp.test", None),
        ({"Host": "www.acme.erp.test"}, "erp.test", None),
        ({"Host": "acme.erp.test.evil.com"}, "erp.test", None),
        ({"Host": "acme.other.test", "X-Tenant": "acme"}, "erp.test", "acme"),
        ({"Host": "[::1]:80"}, "erp.test", None),
    ],
)
def test_a_request_names_its_tenant(headers: dict[str, str], domain: str | None, tenant: str | None) -> None:
    assert tenant_of([(name.encode(), value.encode()) for name, value in headers.items()], domain) == tenant


def test_a_request_that_names_two_tenants_names_none() -> None:
    with pytest.raises(UsageError, match="more than one tenant: acme, bluebird"):
        tenant_of([(b"x-tenant", b"acme"), (b"x-tenant", b"bluebird")], None)


@pytest.mark.parametrize("domain", ["https://erp.test", "erp.test:80", "", "a b"])
def test_a_domain_is_a_name_alone(domain: str) -> None:
    with pytest.raises(UsageError, match="is not a domain: write erp.example.com"):
        check_domain(domain)


@pytest.mark.parametrize(("module", "library", "extra"), [("http", "fastapi", "http"), ("tools", "mcp", "mcp")])
def test_a_library_that_is_missing_is_told_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, library: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"erpkit.app.{module}", raising=False)
    with pytest.raises(ErpkitError) as raised:
        import_optional(f"erpkit.app.{module}", extra)
    assert str(raised.value) == f"{library} is not installed: pip install 'erpkit[{extra}]'"
