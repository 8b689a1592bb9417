"""Decisions, pure: how long to wait, when to send, when to look. No I/O, and no clock: `now` is an argument."""
