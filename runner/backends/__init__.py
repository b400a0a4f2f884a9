"""What applies a plan."""
