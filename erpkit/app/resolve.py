"""Which tenant a request is for: by its header X-Tenant, or by the host that it was sent to."""

from __future__ import annotations

from collections.abc import Iterable

from erpkit.errors import UsageError

__all__ = ["HEADER", "check_domain", "tenant_of"]

HEADER = "x-tenant"


def tenant_of(headers: Iterable[tuple[bytes, bytes]], domain: str | None) -> str | None:
    """Return the slug that a request names, or None; raises UsageError where it names more than one. Pure.

    With `domain`, `acme.erp.example.com` under `erp.example.com` is `acme`. A hyphen, which a host name may have and a slug may
    not, stands for an underscore. Where header and host disagree nobody is believed: a proxy may have checked only one of them.
    """
    found = {value.decode("latin-1").strip() for name, value in headers if name.lower() == HEADER.encode()}
    if domain is not None:
        hosts = (value.decode("latin-1") for name, value in headers if name.lower() == b"host")
        found |= {slug for host in hosts if (slug := _subdomain(host, domain))}
    if len(found) > 1:
        raise UsageError(f"the request names more than one tenant: {', '.join(sorted(slug[:48] for slug in found))}")
    return next(iter(found), None) or None


def check_domain(domain: str) -> str:
    """Return a domain in lower case, without dots around it; raises UsageError for one with a port or a path."""
    name = domain.strip().strip(".").lower()
    if not name or any(sign in name for sign in ":/ "):
        raise UsageError(f"{domain!r} is no domain: write erp.example.com, without port and path")
    return name


def _subdomain(host: str, domain: str) -> str | None:
    name = host.partition(":")[0].strip().rstrip(".").lower()
    label = name.removesuffix(f".{domain}")
    return label.replace("-", "_") if label != name and "." not in label else None
