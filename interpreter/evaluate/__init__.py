"""One evaluator function per node type."""
