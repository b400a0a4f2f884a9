"""Benchmarks: `python -m tests.bench [NAME [ARGUMENT]...]`; without a name those that need no engine, one after the other."""

from __future__ import annotations

import runpy
import sys

WITHOUT_ENGINE = ("start", "syntax", "language", "growth", "calls")
NAMES = (*WITHOUT_ENGINE, "spawn", "soak", "peers")


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] not in NAMES:
        print(f"benchmarks: {' '.join(NAMES)}", file=sys.stderr)
        return 2
    for name in arguments[:1] or WITHOUT_ENGINE:
        print(f"── {name}", flush=True)
        sys.argv = [f"tests.bench.{name}", *arguments[1:]]
        try:
            runpy.run_module(f"tests.bench.{name}", run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
