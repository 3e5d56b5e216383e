"""Servers that misbehave on purpose, on 127.0.0.1."""
