"""The mlld language: pure, starts nothing itself, gets its powers as arguments (see ports)."""
