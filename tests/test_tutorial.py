"""The notebook docs/tutorial.ipynb runs from top to bottom in one process, on bundled digits."""

import ast
import contextlib
import io
import json
import re
import time

import pytest
from conftest import ROOT
from matplotlib.figure import Figure

NOTEBOOK = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))
CELLS = NOTEBOOK["cells"]


def run_cell(source: str, names: dict) -> tuple[str, object]:
    """Return what a cell prints, and the value of its last line if that is an expression."""
    lines = [line for line in source.splitlines() if not line.startswith("%")]  # IPython magics
    tree = ast.parse("\n".join(lines))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "cell", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None
    return printed.getvalue(), value


def test_notebook_is_valid_and_its_links_exist():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
    text = "".join(line for cell in CELLS for line in cell["source"])
    for part in range(1, 6):
        assert f"## {part}. " in text and f"### Claim {part}: " in text
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / "docs" / link).is_file(), link
    for cell in CELLS:
        if cell["cell_type"] == "code":  # no figures, no execution counts
            assert cell["execution_count"] is None
            assert [o["output_type"] for o in cell["outputs"]] in ([], ["stream"])


@pytest.mark.long
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    figures, num_stored = [], 0
    start = time.process_time()
    for cell in CELLS:
        if cell["cell_type"] != "code":
            continue
        printed, value = run_cell("".join(cell["source"]), names)
        if cell["outputs"]:
            assert printed == "".join(cell["outputs"][0]["text"])
            num_stored += 1
        if isinstance(value, Figure):
            value.savefig(io.BytesIO(), format="png")
            figures.append(value)
    assert time.process_time() - start < 180
    assert (len(figures), num_stored) == (4, 6)
    assert names["run"].metrics["test/acc"] > 0.96
    # the statements of the text on the five claims
    assert names["exact"] < 1e-5
    assert names["moved_along"] < 1e-4
    assert names["accuracies"][0] > 0.96 and names["accuracies"][6] < names["accuracies"][3] < 0.96
    assert names["change"][0] < names["change"][1] < 1
    separation = list(names["separation"].values())
    assert separation == sorted(separation)
    widths = list(names["widths"].values())
    assert widths == sorted(widths) and widths[-1] < 18
