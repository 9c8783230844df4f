"""The storage interfaces of existing agent designs, served by the namespaces."""
