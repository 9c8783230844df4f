"""walkv under LangGraph: the published conformance suite, real graphs, kills."""
