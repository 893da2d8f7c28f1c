"""Calls of functions: what serverless platforms serve, from published traces or drawn."""
