"""Makes /opt/mlld/serve the program of an installed PyPI package. Arguments: requirement, link. Runs in the image."""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib.metadata import distribution

spec, link = sys.argv[1:3]
name = re.split(r"[\s\[<>=!~;@]", spec, maxsplit=1)[0]
scripts = sorted(e.name for e in distribution(name).entry_points if e.group == "console_scripts")
wanted = re.sub(r"[-_.]+", "-", name).lower()
chosen = next(
    (s for s in scripts if re.sub(r"[-_.]+", "-", s).lower() == wanted), scripts[0] if len(scripts) == 1 else None
)
if chosen is None:
    has = f"several programs ({', '.join(scripts)}), none of them called {name}" if scripts else "no program"
    sys.exit(f"mlld: the PyPI package {name} brings {has}: name the server by `command` instead")
os.symlink(shutil.which(chosen) or f"/usr/local/bin/{chosen}", link)
