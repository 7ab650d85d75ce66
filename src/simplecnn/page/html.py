"""One self-contained HTML file: the template, the style sheet, the modules and the data in one."""

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
    """The page that the module `js/<module>.js` makes of `data`.

    Its policy lets nothing be loaded, and nothing run but this script: text from a run cannot.
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
    """A module and all that it imports as one: each once, what it needs before it."""
    order: dict[str, str] = {}

    def add(name: str) -> None:
        source = (HERE / "js" / f"{name}.js").read_text(encoding="utf-8")
        for needed in IMPORT.findall(source):
            if needed not in order:
                add(needed)
        order[name] = re.sub(r"^export ", "", IMPORT.sub("", source), flags=re.MULTILINE)

    add(module)
    return "\n" + "\n".join(order.values())


def json_text(data: Any) -> str:
    """JSON that may stand inside a script element, whatever text is in it; NaN is null."""
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
