"""What mypy says of a module that is incomplete: the mistake is found before anything runs."""

import subprocess
import sys
from pathlib import Path

MODULE = """
from collections.abc import Sequence
from pathlib import Path

from erpkit import CommandHandler, EventHandler, Registry, register


class {name}:
    name = "{name}"
    dependencies: Sequence[str] = ()
    migrations: Path | None = None
    commands: Sequence[CommandHandler] = ()
    publishes: Sequence[type] = ()
    {last}


module = register({name}())
registry = Registry.of([{name}()])
"""


# Only what the snippets need is read, or this would take ten seconds.
CONFIG = """
[mypy]
strict = true
incremental = false
follow_imports = skip

[mypy-erpkit.*]
follow_imports = silent

[mypy-erpkit.database.*,erpkit.events.*,erpkit.migrations.*,erpkit.queries.*,erpkit.tenants.*,erpkit.runs.*]
follow_imports = skip
"""


def test_mypy_accepts_a_whole_module_and_rejects_an_incomplete_one_wherever_it_is_registered(tmp_path: Path) -> None:
    (tmp_path / "whole.py").write_text(
        MODULE.format(name="Whole", last="subscribes: Sequence[EventHandler] = ()")
        + "\nreveal_type(module)\nregister('sales')\n"
    )
    (tmp_path / "half.py").write_text(MODULE.format(name="Half", last='subscribers = "a misspelt attribute"'))
    (tmp_path / "mypy.ini").write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "whole.py", "half.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout.splitlines()
    assert 'whole.py:20: note: Revealed type is "whole.Whole"' in said
    assert 'whole.py:21: error: Value of type variable "_Module" of "register" cannot be "str"  [type-var]' in said
    assert 'half.py:17: error: Value of type variable "_Module" of "register" cannot be "Half"  [type-var]' in said
    assert any(line.startswith("half.py:18: error: List item 0 has incompatible type") for line in said), said
    assert any("subscribes" in line for line in said if line.startswith("half.py:18: note"))
    assert sum("error:" in line for line in said) == 3, said
