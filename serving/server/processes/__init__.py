"""The server's processes: one that does all, or several that share the ports and one that keeps them alike."""
