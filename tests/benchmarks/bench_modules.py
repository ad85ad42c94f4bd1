"""How long a check of modules takes: python -m tests.benchmarks.bench_modules [MODULES]; five dependencies each.

It writes addons, packages and a modules.toml into a temporary folder. Peers are timed beside it where there are any.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from random import Random
from typing import TypeVar

import networkx

from erpkit.config import Settings
from erpkit.couplings import inspect_modules
from erpkit.modules import Module, check_modules
from erpkit.modules.cycles import find_components, graph_of, shortest_cycle
from erpkit.modules.picture import draw_modules as plot_modules

_Result = TypeVar("_Result")


def main(count: int) -> None:
    """Time the reading, sorting, checking and drawing of `count` modules, and the finding of cycles."""
    plot_modules(check_modules([Module("a"), Module("b", ("a",))]))  # matplotlib and networkx are imported once
    needs = _needs(count)
    with tempfile.TemporaryDirectory() as folder:
        _of_odoo(Path(folder) / "addons", needs)
        _of_toml(Path(folder) / "modules.toml", needs)
        _of_packages(Path(folder) / "site", needs)
    _of_cycles()
    _of_components()


def _timed(what: str, limit: float | None, work: Callable[[], _Result]) -> _Result:
    started, busy = time.perf_counter(), time.process_time()
    result = work()
    seconds = f"{time.perf_counter() - started:.2f} s, {time.process_time() - busy:.2f} s of the processor"
    print(f"{what}: {seconds}" + (f" (limit {limit:g} s)" if limit else ""))
    return result


def _needs(count: int) -> dict[str, list[str]]:
    random = Random(1)
    return {
        f"module_{n}": [f"module_{m}" for m in sorted(random.sample(range(n), min(5, n)))] for n in range(count)
    }  # fmt: skip


def _of_odoo(folder: Path, needs: dict[str, list[str]]) -> None:
    for name, depends in needs.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__manifest__.py").write_text(repr({"name": name, "version": "1.0", "depends": depends}))
        for file in range(5):
            imports = (
                f"from odoo.addons.{depends[0]} import x\n" if depends and file == 0 else "from odoo import models\n"
            )
            (folder / name / f"file_{file}.py").write_text(imports + "class X(models.Model):\n    _name = 'x'\n" * 20)
    edges = sum(map(len, needs.values()))
    what = f"{len(needs)} of Odoo's addons, {edges} dependencies"
    check = _timed(f"{what}: read, sorted, checked", 2, lambda: inspect_modules(Settings(modules=str(folder))))
    _timed(f"{what}: the picture", 3, lambda: plot_modules(check))
    _timed(f"{what}: a peer, graphlib, sorts alone", None, lambda: list(TopologicalSorter(needs).static_order()))


def _of_toml(path: Path, needs: dict[str, list[str]]) -> None:
    lines = (f'[[module]]\nname = "{name}"\ndepends = {depends}\n' for name, depends in needs.items())
    path.write_text("".join(lines))
    _timed(f"{len(needs)} modules of a modules.toml: read, sorted, checked", 2,
           lambda: inspect_modules(Settings(modules=str(path)), use_database=False))  # fmt: skip


def _of_packages(site: Path, needs: dict[str, list[str]]) -> None:
    for name, depends in needs.items():
        (site / "big_erp" / name).mkdir(parents=True)
        record = f"import erpkit\nmodule = erpkit.Module({name!r}, {tuple(depends)!r})\n"
        (site / "big_erp" / name / "__init__.py").write_text(record)
        for file, needed in enumerate(depends):
            code = f"from big_erp.{needed} import module\n" + "def f(x):\n    return x + 1\n" * 20
            (site / "big_erp" / name / f"file_{file}.py").write_text(code)
    (site / "big_erp" / "__init__.py").write_text("")
    info = site / "big_erp-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: big_erp\nVersion: 1\n")
    entries = "".join(f"{name} = big_erp.{name}:module\n" for name in needs)
    (info / "entry_points.txt").write_text(f"[bench.modules]\n{entries}")
    sys.path.insert(0, str(site))
    check = _timed(
        f"{len(needs)} Python packages of 6 files: imported, sorted, their imports read, checked", None,
        lambda: inspect_modules(Settings(modules="bench.modules"), use_database=False),
    )  # fmt: skip
    found = sum(edge.kind == "import" for edge in check.edges)
    print(f"  {found} imports, {len(check.findings)} findings")


def _of_cycles() -> None:
    random = Random(2)
    pairs = [(n, random.randrange(n)) for n in range(1, 20_001) for _ in range(5)]
    pairs.append((0, 20_000))
    graph = graph_of([(f"m{source}", f"m{target}") for source, target in pairs])
    what = f"one cycle among {sum(map(len, graph.values()))} edges"
    path = _timed(what, 1, lambda: shortest_cycle(graph, find_components(graph)[0]))
    print(f"  of {len(path) - 1} edges")
    directed = networkx.DiGraph(pairs)
    _timed("  a peer, networkx.find_cycle (its graph already built)", None, lambda: networkx.find_cycle(directed))
    _timed("  a peer, graphlib", None, lambda: _cycle_of_graphlib(graph))


def _cycle_of_graphlib(graph: dict[str, list[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _of_components() -> None:
    ring = [Module(f"m{n}", (f"m{(n + 1) % 500}",)) for n in range(500)]
    _timed("a cycle of 500: checked and drawn", 2, lambda: plot_modules(check_modules(ring)))
    for size in (12, 100):
        component = [Module(f"m{n}", tuple(f"m{m}" for m in range(size) if m != n)) for n in range(size)]
        check = _timed(f"{size} modules that all need each other (12: 119,481,284 cycles): checked and drawn", 2,
                       lambda component=component: _drawn(component))  # type: ignore[misc]  # fmt: skip
        print(f"  cut {check}")


def _drawn(modules: list[Module]) -> str:
    check = check_modules(modules)
    plot_modules(check)
    cut = check.components[0].cut
    return f"{len(cut.edges)}, at least {cut.at_least}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
