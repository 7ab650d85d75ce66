"""Run the tests that prove a promise, and write their results to docs/promises.md.

    uv run scripts/promises.py

Each call of the fixture `proves` adds a row. Nothing is written unless all of these tests pass.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "promises.md"
SECTIONS = ("Nothing is lost", "Bad input", "Hostile input", "Data", "Page")
HEAD = """# What is promised, and which test proves it

Generated from the tests' own counts by `uv run scripts/promises.py`. To reproduce a row and print
its counts: `uv run pytest -s FILE::TEST`.
"""


def promises() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "proof"]
        tests += [f"--junitxml={report}", "-o", "junit_family=xunit1"]  # has file and line
        if subprocess.run(tests, cwd=ROOT).returncode:
            sys.exit("A promise is not kept: docs/promises.md was not changed.")
        page = promises_page(report)
    PAGE.write_text(page, encoding="utf-8")
    print(f"Wrote {PAGE.relative_to(ROOT)}.")


def promises_page(report: Path) -> str:
    """Format pytest's report as a page: one table per section, one row per promise."""
    sections: dict[str, list[str]] = {section: [] for section in SECTIONS}
    cases = ElementTree.parse(report).iter("testcase")
    tests = [(c.attrib["file"], int(c.attrib["line"]), c.attrib["name"], c) for c in cases]
    for *_, case in sorted(tests, key=lambda test: test[:3]):
        test = case.attrib["name"].partition("[")[0]
        file = case.attrib["file"]
        for node in case.iter("property"):
            if node.attrib["name"] == "promise":
                section, promise, counts = node.attrib["value"].split("|")
                row = f"| {promise} | {counts} | `{file}::{test}` |"
                sections[section].append(row)
    parts = [HEAD]
    for section, rows in sections.items():
        parts += [f"## {section}\n", "| promise | counted | proven by |", "|---|---|---|"]
        parts += [*rows, ""]
    return "\n".join(parts)


if __name__ == "__main__":
    promises()
