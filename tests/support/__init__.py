"""What several test folders share: workloads, and programs run as processes."""
