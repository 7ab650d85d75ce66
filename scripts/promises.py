"""Run the tests that prove a promise, and write what they counted to docs/promises.md.

    uv run scripts/promises.py

A test that uses the fixture `proves` gives a row. Nothing is written unless all of them pass.
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

Made from the tests' own counts by `uv run scripts/promises.py`. One of them again, with its counts
on the screen: `uv run pytest -s FILE::TEST`.
"""


def promises() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "proof"]
        tests += [f"--junitxml={report}", "-o", "junit_family=xunit1"]  # that one has properties
        if subprocess.run(tests, cwd=ROOT).returncode:
            sys.exit("A promise is not kept: docs/promises.md stays as it is.")
        page = promises_page(report)
    PAGE.write_text(page, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} is written.")


def promises_page(report: Path) -> str:
    """The page, from pytest's report: a table a section, a row a promise, in the tests' order."""
    sections: dict[str, list[str]] = {section: [] for section in SECTIONS}
    cases = ElementTree.parse(report).iter("testcase")
    for case in sorted(cases, key=lambda case: (case.attrib["file"], int(case.attrib["line"]))):
        test = case.attrib["name"].partition("[")[0]
        file = case.attrib["file"]
        for node in case.iter("property"):
            if node.attrib["name"] == "promise":
                section, promise, counted = node.attrib["value"].split("|")
                row = f"| {promise} | {counted} | `{file}::{test}` |"
                sections[section].append(row)
    parts = [HEAD]
    for section, rows in sections.items():
        parts += [f"## {section}\n", "| promise | counted | proven by |", "|---|---|---|"]
        parts += [*rows, ""]
    return "\n".join(parts)


if __name__ == "__main__":
    promises()
