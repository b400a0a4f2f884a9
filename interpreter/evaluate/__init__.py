"""The evaluator. Importing it registers the function of every node."""

from __future__ import annotations

from . import (  # noqa: F401
    blocks,
    calls,
    commands,
    control,
    declarations,
    effects,
    expressions,
    loading,
    lookup,
    loops,
    parallel_stages,
    pipelines,
    running,
    templates,
)  # fmt: skip
from .run import RunOptions, RunResult, recursion_depth, run_script

__all__ = ["RunOptions", "RunResult", "recursion_depth", "run_script"]
