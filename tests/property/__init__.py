"""The store against a dict."""
