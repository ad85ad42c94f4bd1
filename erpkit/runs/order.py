"""What a run is asked to do, as the engine gets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Order:
    """What is to be run: a notebook into an output, with values as its kernel is to get them and as they are recorded.

    `progress` is called before each cell with its index and all cells. The kernel works in the folder `cwd`, or where this process
    does.
    """

    run: str
    source: Path
    output: Path
    kernel: str
    values: Mapping[str, Any] = field(default_factory=dict)
    recorded: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    cwd: str | None = None
    progress: Callable[[int, Sequence[Any]], object] = lambda *_: None

    def describe(self, node: Any) -> None:
        """Write into the notebook where it comes from, as papermill does, and what is known `about` the run."""
        node.metadata.papermill.update(
            input_path=str(self.source), output_path=str(self.output), parameters=dict(self.recorded)
        )
        node.metadata["erpkit"] = dict(self.about)
