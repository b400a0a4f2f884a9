"""The sidecar: the agent's only way to tools and to the network."""
