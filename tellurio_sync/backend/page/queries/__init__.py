"""What the pages ask of the store: one module per question."""
