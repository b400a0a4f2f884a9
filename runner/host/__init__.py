"""The host's implementations of the interpreter's ports."""
