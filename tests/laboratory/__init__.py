"""The laboratory: proves that nothing acknowledged is lost, and says how much it has tried.

``python -m tests.laboratory`` runs all of it; ``docs/reliability.md`` explains the method.

``job``        what a layer is, and what it finds
``steps``      workloads as text
``crashes``    the first layer; the others are in the folders
``registry``   all layers
``runner``     runs their jobs
``report``     adds up the figures
"""
