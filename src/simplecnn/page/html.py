"""Rendering of a self-contained HTML file from the template, style sheet, modules and data."""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IMPORT = re.compile(r'^import .* from "\./(\w+)\.js";\n', re.MULTILINE)


def render(module: str, data: Mapping[str, Any], *, title: str) -> bytes:
    """Return the page that displays `data` with the module `js/<module>.js`.

    Its content security policy allows no requests and no script but this one, so that text from a
    run is never executed.
    """
    parts = {
        "title": html.escape(title),
        "style": (HERE / "style.css").read_text(encoding="utf-8"),
        "script": script(module),
        "data": json_text(data),
    }
    parts["policy"] = (
        f"default-src 'none'; img-src data:; style-src {_hash(parts['style'])}; "
        f"script-src {_hash(parts['script'])}; base-uri 'none'; form-action 'none'"
    )
    template = (HERE / "template.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template).encode()


def script(module: str) -> str:
    """Bundle a module and its imports into one script, each module once and after its imports."""
    sources: dict[str, str] = {}

    def add(name: str) -> None:
        source = (HERE / "js" / f"{name}.js").read_text(encoding="utf-8")
        for imported in IMPORT.findall(source):
            if imported not in sources:
                add(imported)
        sources[name] = re.sub(r"^export ", "", IMPORT.sub("", source), flags=re.MULTILINE)

    add(module)
    return "\n" + "\n".join(sources.values())


def json_text(data: Any) -> str:
    """Serialize to JSON, escaped for use inside a script element; NaN and infinity become null."""
    text = json.dumps(_finite(data), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
