"""Examples that run as they are: the demo (``tellurio-sync demo``) and a minimal training loop."""
