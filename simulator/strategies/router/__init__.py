"""Routers: the replica an arriving request goes to."""
