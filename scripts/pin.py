"""Pin the newest versions that pyproject.toml allows.

    uv run scripts/pin.py

Writes the list `constraint-dependencies` in pyproject.toml, which every `uv run` applies, and
requirements.txt, the same versions with hashes, for `pip install --require-hashes`. A lock file
could replace both, but it records the download URL of each file.
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
        unpinned = PINS.sub("", project)
        (Path(folder) / "pyproject.toml").write_text(unpinned, encoding="utf-8")
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
        # Keep a marker only if it selects between two versions of a package.
        line if names.count(name) > 1 else line.partition(";")[0].strip()
        for name, line in zip(names, lines, strict=True)
    ]
    text = "".join(f'    "{pin}",\n' for pin in pins)
    (ROOT / "pyproject.toml").write_text(PINS.sub(lambda _: text, project), encoding="utf-8")
    print(f"{len(pins)} versions pinned in pyproject.toml and requirements.txt")


if __name__ == "__main__":
    pin()
