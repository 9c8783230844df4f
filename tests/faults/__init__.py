"""Every call to the operating system fails once: what callers are told, and what is kept."""
