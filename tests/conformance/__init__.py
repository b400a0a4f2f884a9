"""The official MCP conformance suite, against a server of our own and the same server behind the endpoint."""
