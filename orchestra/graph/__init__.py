"""From a pipeline file to a LangGraph graph: reading, checking, analysing, lowering."""
