"""Cycles and what to cut: exact where a component is small, bounded where it is not, and quick either way."""

from itertools import pairwise, permutations
from random import Random

import pytest

from erpkit.modules import cycles
from erpkit.modules.cycles import Cut, Graph, find_components, graph_of, shortest_cycle, smallest_cut, within


def _ring(size: int) -> dict[str, list[str]]:
    return {f"{n:03}": [f"{(n + 1) % size:03}"] for n in range(size)}


def _complete(size: int) -> dict[str, list[str]]:
    return {f"{n:03}": [f"{m:03}" for m in range(size) if m != n] for n in range(size)}


def _random(size: int, chance: float, seed: int) -> dict[str, list[str]]:
    random = Random(seed)
    return {str(n): [str(m) for m in range(size) if m != n and random.random() < chance] for n in range(size)}


def _fewest(graph: Graph) -> int:
    """Try every order."""
    places = ({name: n for n, name in enumerate(order)} for order in permutations(graph))
    return min(sum(place[t] < place[s] for s in graph for t in graph[s]) for place in places)


def _without(graph: Graph, cut: Cut) -> dict[str, list[str]]:
    return {s: [t for t in targets if (s, t) not in cut.edges] for s, targets in graph.items()}


def test_the_cut_of_a_small_component_is_the_smallest_there_is() -> None:
    for seed in range(25):
        graph = _random(6, 0.4, seed)
        cut = smallest_cut(graph, list(graph))
        assert (len(cut.edges), cut.is_smallest) == (_fewest(graph), True)
        assert find_components(_without(graph, cut)) == []


def test_the_cut_of_a_large_component_breaks_every_cycle_and_its_bound_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = [smallest_cut(_random(9, 0.3, seed), [str(n) for n in range(9)]) for seed in range(25)]
    monkeypatch.setattr(cycles, "_EXACT", 0)
    for seed, best in enumerate(exact):
        graph = _random(9, 0.3, seed)
        cut = smallest_cut(graph, list(graph))
        assert find_components(_without(graph, cut)) == []
        assert cut.at_least <= len(best.edges) <= len(cut.edges)


def test_of_cuts_that_are_as_small_the_cheapest_is_taken() -> None:
    cost = {("000", "001"): 3, ("001", "002"): 1, ("002", "000"): 2}
    assert smallest_cut(_ring(3), list(_ring(3)), cost.__getitem__).edges == (("001", "002"),)


def test_a_few_wrong_edges_in_a_sound_order_are_found() -> None:
    random = Random(7)
    sound = {
        (n, max(0, n - 1 - int(random.expovariate(1 / 20)))) for n in (random.randrange(1, 300) for _ in range(1500))
    }
    wrong = {(5, 290), (40, 250), (100, 220)}
    graph = graph_of([(f"{s:03}", f"{t:03}") for s, t in sorted(sound | wrong)])
    (component,) = find_components(graph)
    cut = smallest_cut(graph, component)
    assert (len(cut.edges), cut.is_smallest) == (3, True)


def test_a_cycle_of_five_hundred_is_named_in_full_and_cut_once() -> None:
    graph = _ring(500)
    (component,) = find_components(graph)
    path = shortest_cycle(graph, component)
    assert (len(path), path[0], path[-1]) == (501, "000", "000")
    assert all(target in graph[source] for source, target in pairwise(path))
    cut = smallest_cut(graph, component)
    assert (len(cut.edges), cut.is_smallest) == (1, True)


@pytest.mark.parametrize("size", [12, 60])
def test_a_graph_with_more_than_a_million_cycles_is_answered_without_counting_them(size: int) -> None:
    graph = _complete(size)  # twelve that all need each other have 119,481,284 cycles
    (component,) = find_components(graph)
    assert shortest_cycle(graph, component) == ("000", "001", "000")
    cut = smallest_cut(graph, component)
    assert (len(cut.edges), cut.is_smallest) == (size * (size - 1) // 2, True)


def test_one_cycle_is_found_among_a_hundred_thousand_edges() -> None:
    random = Random(3)
    pairs = [(f"{n:05}", f"{random.randrange(n):05}") for n in range(1, 20_000) for _ in range(5)]
    graph = graph_of([*pairs, ("00000", "19999")])
    (component,) = find_components(graph)
    path = shortest_cycle(graph, component)
    assert path[0] == path[-1]
    assert ("00000", "19999") in set(pairwise(path))


def test_the_shortest_of_several_cycles_stands_for_the_component() -> None:
    graph = graph_of([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "c")])
    assert find_components(graph) == [("a", "b", "c", "d")]
    assert shortest_cycle(graph, "abcd") == ("c", "d", "c")


def test_a_graph_without_a_cycle_has_no_component() -> None:
    assert find_components(graph_of([("a", "b"), ("a", "c"), ("b", "c")])) == []


@pytest.mark.parametrize("seed", range(6))
def test_the_cut_of_up_to_thirty_modules_is_proved_and_as_small_as_by_dynamic_programming(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = _random(12, 0.35, seed)
    best = [len(smallest_cut(graph, component).edges) for component in find_components(graph)]
    monkeypatch.setattr(cycles, "_EXACT", 0)
    cuts = [smallest_cut(graph, component) for component in find_components(graph)]
    assert [(len(cut.edges), cut.is_smallest) for cut in cuts] == [(size, True) for size in best]


@pytest.mark.parametrize(("share", "seed"), [(share, seed) for share in (0.08, 0.15, 0.3, 0.9) for seed in range(3)])
def test_the_cut_of_thirty_modules_is_proved(share: float, seed: int) -> None:
    graph = _random(30, share, seed)
    for component in find_components(graph):
        cut = smallest_cut(graph, component)
        assert cut.is_smallest
        assert find_components(within(_without(graph, cut), component)) == []


def test_where_a_proof_would_take_too_long_the_bound_is_told() -> None:
    random = Random(30)
    ends = [(f"{one:03}", f"{other:03}") for one in range(30) for other in range(one)]
    graph = graph_of([pair if random.random() < 0.5 else pair[::-1] for pair in ends])
    cut = smallest_cut(graph, list(graph))
    assert find_components(_without(graph, cut)) == []
    assert 95 < cut.at_least < len(cut.edges) < 135


def test_of_two_modules_that_need_each_other_the_cheaper_edge_is_cut_in_a_large_component_too() -> None:
    pairs = [(f"{n:03}", f"{(n + 1) % 20:03}") for n in range(20)] + [("001", "000"), ("010", "009")]
    cost = {("001", "000"): 1, ("000", "001"): 9, ("010", "009"): 9, ("009", "010"): 1}
    graph = graph_of(pairs)
    cut = smallest_cut(graph, list(graph), lambda pair: cost.get(pair, 5))
    assert (set(cut.edges), cut.is_smallest) == ({("001", "000"), ("009", "010")}, True)
