"""What every test needs of the process that runs it."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# No example is red because the machine stalled over it, and none because of the seed of the day: what a search finds that
# goes on for longer becomes a test of its own.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


def pytest_configure() -> None:
    """Whoever is started in the background of a script ignores interrupts, and so does all that it starts: a test that
    interrupts a command would wait for ever. What has a handler here has the default there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
