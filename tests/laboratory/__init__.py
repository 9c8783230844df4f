"""The laboratory: proves that nothing acknowledged is lost, and says how much it has tried.

``python -m tests.laboratory`` runs all of it; ``docs/reliability.md`` explains the method.
"""
