"""Threads, group commit, and Ctrl-C."""
