#!/usr/bin/env python3
"""adapter: starts an agent's own program in its seat, with its configuration written where that program reads it.

    adapter '{"files": {".codex/config.toml": "…"}, "env": {"CODEX_HOME": "{home}/.codex"}, "argv": ["codex", "exec", "-"]}'

`{url}`, `{token}` and `{home}` are filled in here, from the environment of this one process, so that the token of the
run is in nobody's command line. Standard input, output and the exit code are the agent's.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> int:
    setup = json.loads(sys.argv[1])
    home = os.environ.get("HOME", "/tmp")
    words = {
        "{url}": os.environ.get("MCP_SERVER_URL", ""),
        "{token}": os.environ.get("MLLD_MCP_TOKEN", ""),
        "{home}": home,
    }

    def fill(text: str) -> str:
        for word, value in words.items():
            text = text.replace(word, value)
        return text

    # Without an endpoint there is nothing to configure: an entry with an empty address is an error in most programs.
    for name, text in setup.get("files", {}).items() if words["{url}"] else ():
        path = os.path.join(home, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(fill(text))
    os.environ.update({name: fill(value) for name, value in setup.get("env", {}).items()})
    argv = [fill(word) for word in setup["argv"]]
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"adapter: {argv[0]} cannot be started: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main())
