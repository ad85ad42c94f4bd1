"""What lies beside a module's package, where the package was found and not declared: code that may be the module's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from erpkit.couplings.source import Code
from erpkit.finding import name_some
from erpkit.modules.module import ModuleLike
from erpkit.modules.python import find_python
from erpkit.modules.wiring import Unread, shorten_path


def find_beside(modules: Sequence[ModuleLike], packages: Mapping[str, str], code: Code) -> Iterator[Unread]:
    """Yield the files beside a package that no other module is beside: a record in `shop/stock/api` leaves `shop/stock` out.

    Beside the packages of several modules lies what they share, and what puts them together: that is no module's own.
    """
    for module in modules:
        package = packages.get(module.name, "")
        parent = package.rpartition(".")[0]
        alone = [other for other in packages.values() if other.startswith(f"{parent}.")] == [package]
        was_found = len(packages) > 1 and not getattr(module, "package", None)
        if parent and alone and was_found and (files := _files(code.folders(parent), code.folders(package))):
            yield _unread(module.name, package, parent, files)


def _files(around: Sequence[Path], inside: Sequence[Path]) -> list[str]:
    files = (path for folder in around for path in find_python(folder) if path.is_file() and path.stat().st_size)
    return [shorten_path(path) for path in files if not any(path.is_relative_to(folder) for folder in inside)]


def _unread(module: str, package: str, parent: str, files: Sequence[str]) -> Unread:
    problem = (
        f"{name_some(files, 3)}: imports were not read, as the record of {module} is in {package} beside it; "
        f'write package="{parent}" in the record if this is the code of {module}, or else package="{package}"'
    )
    return Unread(problem, files[0], 1, (module,))
