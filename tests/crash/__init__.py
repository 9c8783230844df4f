"""Power failures at every step of a workload, and real processes killed."""
