"""Damaged stores."""
