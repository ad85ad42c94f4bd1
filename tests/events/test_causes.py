"""Errors that differ only in a number, an id or a value are one cause."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from erpkit.errors import PlanChangedError, UsageError
from erpkit.events import DeadLetter, LetterPlan, LetterSelection, cause_of, group_letters, sum_counts
from erpkit.events.letter_plan import choose_letters


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("ErpkitError: no exchange rate for CHF", "ErpkitError: no exchange rate for CHF"),
        ("ValueError: order 17 of 2026-10-31", "ValueError: order … of …"),
        ("KeyError: 6ba7b810-9dad-11d1-80b4-00c04fd430c8", "KeyError: …"),
        ("KeyError: 'A-001'", "KeyError: …"),
        ("ValueError: it's 5.50 too much, isn't it", "ValueError: it's … too much, isn't it"),
        (
            'UniqueViolation: duplicate key value violates unique constraint "invoices_pkey"\nDETAIL:  Key (id)=(7).',
            'UniqueViolation: duplicate key value violates unique constraint "invoices_pkey"',
        ),
        ('DataError: invalid input syntax for type integer: "x7"', "DataError: invalid input syntax for type integer: …"),
        ("PayloadError: Line.0.sku2: Field required", "PayloadError: Line.….sku2: Field required"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_cause_is_the_error_without_its_values(error: str, cause: str) -> None:
    assert cause_of(error) == cause


def _letter(number: int, error: str, handler: str = "billing.on_order", minute: int = 0) -> DeadLetter:
    moment = datetime(2026, 1, 1, 8, minute, tzinfo=UTC)
    return DeadLetter("acme", handler, "sales.OrderPlaced", number, uuid4(), error, 3, moment)


def test_letters_are_grouped_by_cause_and_added_up_by_one_dimension() -> None:
    letters = [_letter(n, f"ValueError: order {n}", minute=n) for n in range(3)]
    groups = group_letters([*letters, _letter(9, "KeyError: 'x'")])
    assert [(g.cause, g.letters, g.last_failed_at.minute) for g in groups] == [
        ("ValueError: order …", 3, 2),
        ("KeyError: …", 1, 0),
    ]
    assert sum_counts(groups, "kind") == {"ValueError": 3, "KeyError": 1}
    assert sum_counts(groups, "handler") == {"billing.on_order": 4}
    with pytest.raises(UsageError, match="not by 'colour'"):
        sum_counts(groups, "colour")  # type: ignore[arg-type]


def test_a_selection_holds_what_meets_all_of_its_conditions() -> None:
    letters = [_letter(1, "ValueError: 5", minute=1), _letter(2, "KeyError: 'x'", "sales.on_order", minute=2)]
    for selection, offsets in (
        (LetterSelection(), [1, 2]),
        (LetterSelection(handler="sales.*"), [2]),
        (LetterSelection(topic="billing.*"), []),
        (LetterSelection(cause="valueerror: …"), [1]),
        (LetterSelection(offsets=(2, 3)), [2]),
        (LetterSelection(uuids=(letters[0].uuid,)), [1]),
        (LetterSelection(since=letters[1].failed_at), [2]),
        (LetterSelection(until=letters[1].failed_at), [1]),
        (LetterSelection(handler="sales.*", offsets=(1,)), []),
    ):
        chosen, _ = choose_letters(letters, selection, None)
        assert [letter.offset for letter in chosen] == offsets, selection
    with pytest.raises(UsageError, match="has no time zone"):
        LetterSelection(since=datetime(2026, 1, 1))


def test_a_plan_has_another_id_for_other_letters_another_action_and_another_reason() -> None:
    letters = (_letter(1, "ValueError: 5"), _letter(2, "ValueError: 6"))
    plans = [
        LetterPlan("retry", (), letters),
        LetterPlan("retry", (), letters[:1]),
        LetterPlan("discard", (), letters, reason="a test order"),
        LetterPlan("discard", (), letters, reason="another one"),
    ]
    assert len({plan.id for plan in plans}) == 4
    assert plans[0].id == LetterPlan("retry", (), letters, parked=5).id
    with pytest.raises(PlanChangedError, match="nothing was done"):
        plans[0].check(plans[1].id)


def test_letters_of_a_handler_that_is_gone_are_left_out() -> None:
    chosen, gone = choose_letters(
        [_letter(1, "x"), _letter(2, "y", "old.on_order")], LetterSelection(), {"billing.on_order"}
    )
    assert [letter.offset for letter in chosen] == [1]
    assert gone == {"old.on_order": "no module has this handler any more"}
