"""Adapters for frameworks, with the frameworks themselves."""
