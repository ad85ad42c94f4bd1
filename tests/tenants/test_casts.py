"""What changing a column's type does to its values."""

import pytest

from erpkit.tenants.ddl import cast_risk, mend_object
from erpkit.tenants.objects import SchemaObject


@pytest.mark.parametrize(
    ("old", "new", "risk"),
    [
        ("numeric(10,2)", "numeric(12,2)", "none"),
        ("numeric(10,2)", "numeric", "none"),
        ("numeric(12,2)", "numeric(10,2)", "fails"),
        ("numeric(12,2)", "numeric(12,4)", "fails"),
        ("numeric(12,4)", "numeric(14,2)", "loses"),
        ("numeric", "numeric(14,2)", "loses"),
        ("numeric(12,2)", "bigint", "loses"),
        ("integer", "bigint", "none"),
        ("bigint", "integer", "fails"),
        ("integer", "numeric(4,0)", "fails"),
        ("bigint", "double precision", "loses"),
        ("real", "double precision", "none"),
        ("double precision", "real", "loses"),
        ("text", "character varying(20)", "fails"),
        ("character varying(20)", "character varying(30)", "none"),
        ("character varying(20)", "text", "none"),
        ("character varying(20)", "character(30)", "loses"),
        ("timestamp with time zone", "date", "loses"),
        ("timestamp without time zone", "timestamp(3) without time zone", "loses"),
        ("timestamp(3) with time zone", "timestamp with time zone", "none"),
        ("text", "uuid", "fails"),
        ('\x01."Odd (1)"', "text", "fails"),
    ],
)
def test_a_type_change_is_known_to_keep_refuse_or_lose_values(old: str, new: str, risk: str) -> None:
    assert cast_risk(old, new) == risk


def _column(definition: str) -> SchemaObject:
    return SchemaObject("column", "orders", "total", definition)


def test_statements_that_may_fail_or_lose_values_are_comments_that_say_so() -> None:
    narrow, wide, rounded = (_column(f"numeric({sizes})\n\n") for sizes in ("10,2", "12,2", "12,0"))
    assert mend_object(narrow, wide).startswith("-- fails where a value does not fit: ALTER TABLE ")
    assert mend_object(rounded, wide).startswith("-- destructive: ALTER TABLE ")
    assert mend_object(wide, narrow).startswith("ALTER TABLE ")
    assert mend_object(_column("integer\nnot null\n"), None).startswith("-- fails where rows exist: ALTER TABLE ")
    assert mend_object(_column("integer\nnot null\ndefault 0"), None).startswith("ALTER TABLE ")
