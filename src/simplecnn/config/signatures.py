"""What a class accepts, read from its source text. Imports nothing that it reads about.

A misspelt argument is so reported before torch has been loaded.
"""

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any


@cache
def signature(target: str) -> Signature | None:
    """The call signature of a dotted name as its source text states it; annotations are strings.

    None where the source cannot be found or the class leaves its arguments open.
    """
    found = _definition(target)
    if found is None:
        return None
    module, node = found
    if isinstance(node, ast.ClassDef):
        return _class_signature(module, node)
    return _function_signature(node, skip_first=False)


def accepts(annotation: Any, value: Any) -> bool:
    """Whether a YAML value can be what an annotation (source text) asks for.

    True where the annotation names something this function cannot judge.
    """
    if annotation is Parameter.empty:
        return True
    return _accepts(ast.parse(annotation, mode="eval").body, value)


_PLAIN = {"bool", "int", "float", "str", "Path"}
_NOT_YAML = {"Tensor", "Module", "Callable", "timedelta"}
_LISTS = {"Sequence", "Iterable", "Collection", "list", "List", "tuple", "Tuple"}
_DICTS = {"Mapping", "dict", "Dict"}


def _accepts(annotation: ast.expr, value: Any) -> bool:
    match annotation:
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str() as text):
            return _accepts(ast.parse(text, mode="eval").body, value)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _accepts(left, value) or _accepts(right, value)
        case ast.Subscript(value=outer, slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            name = _last_name(outer)
            if name == "Literal":
                return any(_is_literal(p, value) for p in parts)
            if name == "Optional":
                return value is None or _accepts(parts[0], value)
            if name == "Union":
                return any(_accepts(part, value) for part in parts)
            if name in {"tuple", "Tuple"} and Ellipsis not in [
                p.value for p in parts if isinstance(p, ast.Constant)
            ]:
                return (
                    isinstance(value, list | tuple)
                    and len(value) == len(parts)
                    and all(_accepts(p, v) for p, v in zip(parts, value, strict=True))
                )
            if name in _LISTS:
                return isinstance(value, list | tuple) and all(_accepts(parts[0], v) for v in value)
            return name not in _DICTS or isinstance(value, Mapping)
        case _:
            name = _last_name(annotation)
            if name not in _PLAIN and isinstance(value, Mapping) and "_target_" in value:
                return True  # an object, known only when it is built
            return _accepts_name(name, value)


def _is_literal(part: ast.expr, value: Any) -> bool:
    return (
        isinstance(part, ast.Constant) and type(part.value) is type(value) and (part.value == value)
    )


def _accepts_name(name: str, value: Any) -> bool:
    if name == "bool":
        return isinstance(value, bool)
    if name == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if name == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if name in {"str", "Path"}:
        return isinstance(value, str)
    if name in _LISTS:
        return isinstance(value, list | tuple)
    if name in _DICTS:
        return isinstance(value, Mapping)
    return name not in _NOT_YAML


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


@dataclass(frozen=True)
class _Module:
    """A module as text: its dotted name, its file, and whether it is a package."""

    name: str
    path: Path

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    def child(self, name: str) -> "_Module | None":
        if not self.is_package:
            return None
        for path in (self.path.parent / name / "__init__.py", self.path.parent / f"{name}.py"):
            if path.is_file():
                return _Module(f"{self.name}.{name}", path)
        return None


_Found = tuple[_Module, ast.ClassDef | ast.FunctionDef]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _module(dotted: str) -> _Module | None:
    first, *rest = dotted.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    module: _Module | None = None
    if spec.origin and spec.origin.endswith(".py"):
        module = _Module(first, Path(spec.origin))
    elif rest and spec.submodule_search_locations:  # a namespace: a folder, or several
        places = [Path(p) / "__init__.py" for p in spec.submodule_search_locations]
        children = (_Module(first, place).child(rest[0]) for place in places)
        module, rest = next((child for child in children if child), None), rest[1:]
    for name in rest:
        module = module.child(name) if module else None
    return module


def _definition(dotted: str) -> _Found | None:
    parts = dotted.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = _module(".".join(parts[:cut]))
        if module is not None:
            return _find(module, parts[cut], frozenset()) if cut == len(parts) - 1 else None
    return None


def _find(module: _Module, name: str, seen: frozenset[str]) -> _Found | None:
    """Where `name`, as seen in `module`, is defined: there, or behind its imports."""
    if module.name in seen:
        return None
    seen = seen | {module.name}
    stars = []
    for node in _statements(_tree(module.path)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    source = _module(_absolute(module, node))
                    found = _find(source, alias.name, seen - {source.name}) if source else None
                    if found:
                        return found
                if alias.name == "*":
                    stars.append(_absolute(module, node))
    for star in stars:
        source = _module(star)
        found = _find(source, name, seen) if source else None
        if found:
            return found
    return None


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Top-level statements, also those under `if` and `try`."""
    stack = list(reversed(tree.body))
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, ast.If | ast.Try):
            stack.extend(reversed(node.body + node.orelse))


def _absolute(module: _Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.name.split(".")
    up = node.level - 1 if module.is_package else node.level
    base = package[: len(package) - up]
    return ".".join([*base, node.module] if node.module else base)


def _class_signature(module: _Module, node: ast.ClassDef, depth: int = 0) -> Signature | None:
    for statement in reversed(node.body):
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _function_signature(statement, skip_first=True)
    for base in node.bases:
        if not isinstance(base, ast.Name) or depth == 10:
            return None
        found = _find(module, base.id, frozenset())
        if not found or not isinstance(found[1], ast.ClassDef):
            return None
        inherited = _class_signature(found[0], found[1], depth + 1)
        if inherited is None or inherited.parameters:
            return inherited
    return Signature([])


def _function_signature(node: ast.FunctionDef, *, skip_first: bool) -> Signature:
    def parameter(argument: ast.arg, kind: Any, default: ast.expr | None) -> Parameter:
        annotation = ast.unparse(argument.annotation) if argument.annotation else Parameter.empty
        value = Parameter.empty if default is None else ast.unparse(default)
        return Parameter(argument.arg, kind, default=value, annotation=annotation)

    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    parameters = [
        parameter(a, Parameter.POSITIONAL_OR_KEYWORD, d)
        for a, d in zip(positional, defaults, strict=True)
    ][1 if skip_first else 0 :]
    if arguments.vararg:
        parameters.append(parameter(arguments.vararg, Parameter.VAR_POSITIONAL, None))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters.append(parameter(argument, Parameter.KEYWORD_ONLY, default))
    if arguments.kwarg:
        parameters.append(parameter(arguments.kwarg, Parameter.VAR_KEYWORD, None))
    return Signature(parameters)
