"""Imports point left to right and top to bottom only (docs/architecture.md, Layout and direction)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each list is a stack of layers: a module may import from its own layer and from those before it.
INTERPRETER = [
    {"source", "errors", "labels", "names"},
    {"values", "nodes", "events", "declarations", "ports"},
    {"lexer", "hints", "policy", "profiles", "checkpoints", "registry", "code", "web"},
    {"parser", "resolve", "guards", "environment", "printer", "check", "transform"},
    {"operations"},
    {"evaluate", "mcp"},
    {"module"},
]
RUNNER = [
    {"errors", "spelling", "environ", "agents", "settings", "plan", "trace"},
    {
        "planner",
        "survey",
        "invariants",
        "render",
        "handover",
        "offers",
        "record",
        "lock",
        "secrets",
        "recipes",
        "trust",
    },
    {"images", "backends"},
    {"sandbox", "lease", "selftest", "endpoint", "commands"},
    {"host", "report", "doctor", "telemetry"},
    {"cli", "__main__"},
]
# A package may import the packages named here, never the others.
PACKAGES = {"interpreter": set(), "runner": {"interpreter"}, "images": {"interpreter"}}
# Each third-party package that touches the outside is imported in one place.
HOMES = {
    "docker": ("runner/backends/docker",),
    "click": ("runner/cli/",),
    "lark": ("interpreter/parser", "interpreter/lexer", "interpreter/transform"),
    "pydantic_settings": ("runner/settings.py",),
    "jinja2": ("runner/report_page.py",),
    "opentelemetry": ("runner/telemetry_export.py",),
}
# No I/O, clock or randomness.
PURE = {
    "interpreter/labels.py",
    "interpreter/policy.py",
    "interpreter/policy_patterns.py",
    "interpreter/policy_subjects.py",
    "interpreter/policy_danger.py",
    "interpreter/policy_rules.py",
    "interpreter/policy_parse.py",
    "interpreter/policy_reader.py",
    "interpreter/declarations.py",
    "runner/plan.py",
    "runner/planner.py",
    "runner/invariants.py",
}
IMPURE = {
    "os",
    "io",
    "socket",
    "subprocess",
    "time",
    "random",
    "secrets",
    "uuid",
    "tempfile",
    "shutil",
    "asyncio",
    "threading",
}


def sources() -> list[Path]:
    return sorted(p for top in PACKAGES for p in (ROOT / top).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names imported by the file, relative imports made absolute."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join((*package[: len(package) - node.level + 1],)) if node.level else ""
            module = ".".join(filter(None, (base, node.module or "")))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def layer(name: str, stack: list[set[str]]) -> int | None:
    # `parser_blocks` belongs to the layer of `parser`: a file that grew was cut along its noun.
    stem = name.split("_")[0]
    return next((i for i, names in enumerate(stack) if name in names or stem in names), None)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    relative = path.relative_to(ROOT)
    package, name = relative.parts[0], relative.parts[1].removesuffix(".py")
    stack = {"interpreter": INTERPRETER, "runner": RUNNER}.get(package)
    for imported in imports(path):
        parts = imported.split(".")
        if parts[0] in PACKAGES and parts[0] != package:
            assert parts[0] in PACKAGES[package], f"{relative} imports {imported}"
        if stack and parts[0] == package and len(parts) > 1 and name != "__init__":
            here, there = layer(name, stack), layer(parts[1], stack)
            assert here is not None, (
                f"{relative} has no layer: give it a place in this test and in docs/architecture.md"
            )
            assert there is None or there <= here, f"{relative} imports {imported}, a layer after its own"
        if parts[0] in HOMES:
            assert str(relative).startswith(HOMES[parts[0]]), f"{relative} imports {imported}"
        if str(relative) in PURE:
            assert parts[0] not in IMPURE, f"{relative} is pure and imports {imported}"


def test_the_check_can_fail() -> None:
    assert layer("evaluate", INTERPRETER) > layer("labels", INTERPRETER)
    assert layer("parser_blocks", INTERPRETER) == layer("parser", INTERPRETER)


@pytest.mark.parametrize(
    "path", [*sources(), *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_file_is_one_noun(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500, f"{path.name} is two ideas"
