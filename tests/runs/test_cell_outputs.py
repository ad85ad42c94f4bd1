"""What a cell puts out is kept as it is meant: any text, a bar as one line, no more than a limit, and told where it was cut."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest

from erpkit.runs import RunResult, TimeLimits, open_notebook, run_notebook
from erpkit.runs.cell_output import join_streams
from erpkit.runs.text import redrawn, redrawn_part
from tests.tiny import write_notebook

pytestmark = pytest.mark.usefixtures("warm_runs")


def _run(path: Path, **options: Any) -> RunResult:
    return run_notebook(open_notebook(str(path)), {}, path.parent / "runs", **options)


def _outputs(result: RunResult, cell: int) -> list[Mapping[str, Any]]:
    node = nbformat.read(result.output, as_version=4)
    return list([one for one in node.cells if one.cell_type == "code"][cell].outputs)


def test_half_of_a_character_costs_nothing_else(tmp_path: Path) -> None:
    result = _run(
        write_notebook(tmp_path / "half.ipynb", "print('before')\nprint('\\ud800')\nprint('after')", "'\\udfff'")
    )
    assert [output["text"] for output in _outputs(result, 0)] == ["before\n\\ud800\nafter\n"]
    assert result.outcome == "ok"
    assert "\\ud800" in result.report.read_text()


def test_a_kernel_is_left_without_a_trace_of_how_it_was_prepared(tmp_path: Path) -> None:
    cell = "print([name for name in dir() if name in ('pack', 'session') or '_prepare' in name], len(In))"
    result = _run(write_notebook(tmp_path / "clean.ipynb", cell))
    assert _outputs(result, 0)[0]["text"] == "[] 2\n"
    assert nbformat.read(result.output, as_version=4).cells[1].execution_count == 1


def test_a_progress_bar_is_one_line(tmp_path: Path) -> None:
    cell = "from tqdm import tqdm\nfor n in tqdm(range(200), mininterval=0, file=sys.stdout):\n    pass\nprint('done')"
    (output,) = _outputs(_run(write_notebook(tmp_path / "bar.ipynb", f"import sys\n{cell}")), 0)
    first, second = output["text"].splitlines()
    assert first.startswith("100%")
    assert second == "done"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\rb\n", "b\n"), ("a\r\nb", "a\r\nb"), ("1\r2\r3\r", "3\r"), ("x\ny\rz", "x\nz"), ("plain", "plain")],
)
def test_a_line_that_is_drawn_anew_is_shown_as_it_was_left(text: str, shown: str) -> None:
    assert redrawn(text) == shown


def test_a_part_of_a_text_still_draws_the_line_before_it_anew() -> None:
    assert redrawn("0%" + redrawn_part("\r1%\r2%") + redrawn_part("\r3%\nend")) == "3%\nend"


def test_long_texts_of_one_stream_are_joined_and_others_left() -> None:
    def stream(name: str, text: str) -> dict[str, Any]:
        return {"output_type": "stream", "name": name, "text": text}

    shown = {"output_type": "display_data", "data": {"text/plain": "x"}}
    given = [stream("stdout", "a"), stream("stdout", "b"), stream("stderr", "c"), shown, stream("stderr", "d\r")]
    given += [stream("stderr", "e")]
    assert [output.get("text") for output in join_streams(given)] == ["ab", "c", None, "e"]


def test_output_beyond_the_limit_is_cut_and_said(tmp_path: Path) -> None:
    cells = [
        "print('x' * 60_000)\nprint('y' * 60_000)\nprint('z' * 60_000)",
        "print('short')",
        "from IPython.display import display\ndisplay({'text/plain': 'p' * 200_000}, raw=True)\nprint('after')",
        "for n in range(3_000):\n    print(n, 'r' * 100, end='\\r')",
        "raise ValueError('e' * 300_000)",
    ]
    result = _run(write_notebook(tmp_path / "much.ipynb", *cells), limits=TimeLimits(output=100_000))
    first, note, *others = _outputs(result, 0)
    assert (len(first["text"]), others) == (100_000, [])
    assert note["text"] == "[The output of this cell is cut here: it is more than 0.1 MB.]\n"
    assert [output["text"] for output in _outputs(result, 1)] == ["short\n"]
    assert ["p" * 20 in str(output) for output in _outputs(result, 2)] == [False, False]
    assert len(str(_outputs(result, 3))) < 1_000
    assert (result.outcome, (result.error or "")[:20]) == ("failed", "ValueError: eeeeeeee")
    assert len(result.error or "") <= 10_000
    assert result.output.stat().st_size < 1_000_000
    assert result.problems[0] == "cell 2 put out 0.2 MB: the output is cut after 0.1 MB, --output-limit"
    assert [problem.split(" put")[0] for problem in result.problems] == ["cell 2", "cell 4", "cell 6"]


def test_a_display_that_is_updated_by_a_later_cell_is_found_after_long_texts(tmp_path: Path) -> None:
    cells = [
        "print('x' * 70_000)\nprint('y' * 70_000)\nfrom IPython.display import display\nd = display(1, display_id=True)",
        "d.update(2)",
    ]
    outputs = _outputs(_run(write_notebook(tmp_path / "later.ipynb", *cells)), 0)
    assert outputs[-1]["data"] == {"text/plain": "2"}


def test_the_end_by_sys_exit_is_no_exception_in_notebook_or_report(tmp_path: Path) -> None:
    result = _run(write_notebook(tmp_path / "exit.ipynb", "import sys\nprint('enough')\nsys.exit(0)", "print('more')"))
    assert result.outcome == "ok"
    assert [output["text"] for output in _outputs(result, 0)] == ["enough\n"]
    report = result.report.read_text()
    assert ("SystemExit" in report, "UserWarning" in report, "The cells below were not run" in report) == (
        False, False, True,
    )  # fmt: skip
