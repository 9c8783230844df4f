"""The decoders under hostile input."""
