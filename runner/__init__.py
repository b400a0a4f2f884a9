"""From an environment module to a fenced run."""
