"""The questions of the pages to the store: one module for each."""
