"""A bridge as small as one can be: `python -S -E tests/bench/dialing.py SOCKET COMMAND...`, for machines without a compiler.

Keeps one connection to the socket spare. When the first byte comes, it becomes standard input and output of a new COMMAND,
and the next one is dialled. At most 32 run at once.
"""

import select
import signal
import socket
import subprocess
import sys
import time

_MOST = 32


def main(path: str, command: list[str]) -> None:
    running: list[subprocess.Popen[bytes]] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        while True:
            spare = socket.socket(socket.AF_UNIX)
            try:
                spare.connect(path)
            except OSError:
                time.sleep(0.02)
                continue
            finally:
                running = [process for process in running if process.poll() is None]
            select.select([spare], [], [])
            while len(running) >= _MOST:
                time.sleep(0.05)
                running = [process for process in running if process.poll() is None]
            with spare:
                running.append(subprocess.Popen(command, stdin=spare, stdout=spare))
    finally:
        for process in running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
