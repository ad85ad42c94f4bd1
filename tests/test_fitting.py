"""Which columns of a table fit into a terminal, and how wide they are."""

from __future__ import annotations

from erpkit.fitting import Room, fit

NAME, NUMBER, PROSE = Room(9, 9, 9), Room(5, 5, 12), Room(8, 60, 60)


def test_a_table_that_fits_has_all_columns_as_wide_as_they_want() -> None:
    assert fit([NAME, NUMBER, PROSE], 85) == {0: 9, 1: 12, 2: 60}


def test_heads_are_folded_before_sentences_and_sentences_before_a_column_is_left_out() -> None:
    assert fit([NAME, NUMBER, PROSE], 80) == {0: 9, 1: 7, 2: 60}
    assert fit([NAME, NUMBER, PROSE], 40) == {0: 9, 1: 5, 2: 22}


def test_minor_columns_are_left_out_before_sentences_get_too_narrow_to_read() -> None:
    minor = Room(10, 10, 10, is_minor=True)
    assert fit([NAME, minor, PROSE], 47) == {0: 9, 1: 10, 2: 24}
    assert fit([NAME, minor, PROSE], 46) == {0: 9, 2: 35}


def test_where_nothing_minor_is_left_out_others_go_from_the_right_but_never_the_first() -> None:
    assert fit([NAME, NUMBER, NUMBER], 17) == {0: 9, 1: 6}
    assert fit([Room(70, 70, 70), NUMBER], 40) == {0: 70}


def test_a_column_in_which_a_row_is_in_trouble_stays_where_others_go() -> None:
    trouble = Room(5, 5, 12, is_in_trouble=True)
    assert fit([NAME, NUMBER, NUMBER, trouble], 23) == {0: 9, 1: 5, 3: 5}
    assert fit([NAME, NUMBER, Room(5, 5, 12, is_minor=True, is_in_trouble=True)], 17) == {0: 9, 2: 6}


def test_a_minor_column_stays_where_a_wider_one_has_to_go_all_the_same() -> None:
    assert fit([NAME, Room(10, 10, 10, is_minor=True), Room(90, 90, 90)], 80) == {0: 9, 1: 10}
