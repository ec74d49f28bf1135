"""One run, from its inputs to its verdict: the plan, the graph of components, and their execution."""
