#!/bin/sh
# The last step of every root, unpacked or pulled: the user, the trust of the host, compiled Python. Runs in the image.
set -eu

# The user that everything runs as. Only the workspace and tmpfs are writable for it.
echo 'agent:x:1000:1000::/home/agent:/bin/bash' >>/etc/passwd
echo 'agent:x:1000:' >>/etc/group
mkdir -p /home/agent /workspace /usr/local/bin
chown 1000:1000 /home/agent /workspace

# Networks that re-sign TLS: what the host trusts, builds must trust, or no package can be had.
if [ -s /tmp/mlld/ca.crt ]; then
    mkdir -p /etc/ssl/certs
    cat /tmp/mlld/ca.crt >>/etc/ssl/certs/ca-certificates.crt
fi

# Nothing in these images gains rights by being executed. (The image of the compiler has no find, and is never run.)
if [ -e /usr/bin/find ]; then
    find /usr -xdev -type f -perm /6000 -exec chmod ug-s {} +
fi

# The root is read-only at run time: what is not compiled now would be compiled at every start.
if [ -e /usr/bin/python3 ]; then
    ln -sf python3 /usr/bin/python
    python3 -m compileall -q /usr/lib/python3* || true # a package may hold templates that are no Python
fi
