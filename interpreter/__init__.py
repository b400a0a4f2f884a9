"""The mlld language: pure, starts nothing itself, gets its powers as arguments (see ports).

What others need is offered here by name and imported when it is first asked for: `mlld --version` and a sidecar without
a module pay for none of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interpreter.check import check_source as check_source
    from interpreter.evaluate import RunOptions as RunOptions
    from interpreter.evaluate import run_script as run_script
    from interpreter.module import EnvironmentModule as EnvironmentModule
    from interpreter.module import load_environment as load_environment
    from interpreter.module_guards import ModuleGuards as ModuleGuards
    from interpreter.module_serve import serve_module as serve_module

_HOMES = {
    "check_source": "interpreter.check",
    "RunOptions": "interpreter.evaluate",
    "run_script": "interpreter.evaluate",
    "EnvironmentModule": "interpreter.module",
    "load_environment": "interpreter.module",
    "ModuleGuards": "interpreter.module_guards",
    "serve_module": "interpreter.module_serve",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'interpreter' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
