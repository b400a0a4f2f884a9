"""`python -m runner` is `mlld`."""

from runner.cli import main

main()
