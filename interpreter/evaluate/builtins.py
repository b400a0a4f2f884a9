"""Every name that is a function of the language itself."""

from __future__ import annotations

from interpreter.values import Value

from .checks import CHECKS
from .transformers import TRANSFORMERS

BUILTINS: dict[str, Value] = {name: Value(function) for name, function in {**TRANSFORMERS, **CHECKS}.items()}
