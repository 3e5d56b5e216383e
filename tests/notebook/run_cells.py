"""Runs cells in a real kernel, as a notebook does: reads a JSON list of cells, and prints the outputs of each."""

from __future__ import annotations

import json
import sys

import nbformat
from nbclient import NotebookClient


def main() -> None:
    cells = json.load(sys.stdin)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=100, kernel_name="python3", allow_errors=True).execute()
    json.dump([cell.outputs for cell in notebook.cells], sys.stdout)


if __name__ == "__main__":
    main()
