"""Take the newest versions that pyproject.toml allows, and pin them exactly.

    uv run scripts/pin.py

Writes the list `constraint-dependencies` in pyproject.toml, which every `uv run` follows, and
requirements.txt, the same with hashes, for `pip install --require-hashes -r requirements.txt`.
(A lock file would do both, but it records from where each file was downloaded.)
"""

import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = re.compile(r"(?<=\nconstraint-dependencies = \[\n).*?(?=^\])", re.DOTALL | re.MULTILINE)
HEADER = "# Exact versions with hashes, written by `uv run scripts/pin.py`. Do not edit.\n"


def pin() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        free = PINS.sub("", project)
        (Path(folder) / "pyproject.toml").write_text(free, encoding="utf-8")
        export = [
            *("uv", "export", "--quiet", "--directory", folder, "--format", "requirements-txt"),
            *("--all-groups", "--all-extras", "--no-emit-project", "--no-annotate", "--no-header"),
        ]
        hashed = subprocess.run(export, check=True, capture_output=True, text=True).stdout
    (ROOT / "requirements.txt").write_text(HEADER + hashed, encoding="utf-8")
    lines = [
        line.removesuffix("\\").strip()
        for line in hashed.splitlines()
        if line and not line.startswith((" ", "#"))
    ]
    names = [line.partition("==")[0] for line in lines]
    pins = [
        # A marker matters only where it chooses between two versions.
        line if names.count(name) > 1 else line.partition(";")[0].strip()
        for name, line in zip(names, lines, strict=True)
    ]
    listed = "".join(f'    "{pin}",\n' for pin in pins)
    (ROOT / "pyproject.toml").write_text(PINS.sub(lambda _: listed, project), encoding="utf-8")
    print(f"{len(pins)} versions pinned in pyproject.toml and requirements.txt")


if __name__ == "__main__":
    pin()
