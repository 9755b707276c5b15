"""Checks the daemon with device programs that other people wrote; `scripts/real-devices` is the way in."""
