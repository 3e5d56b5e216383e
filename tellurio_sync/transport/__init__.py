"""Whole text messages over one WebSocket."""
