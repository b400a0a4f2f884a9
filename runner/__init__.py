"""From an environment module to a fenced run."""

__version__ = "0.1.0"
