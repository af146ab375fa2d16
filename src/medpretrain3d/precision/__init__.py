"""Numeric precision of networks: its names, which one pays on a device, and the context that networks run in."""
