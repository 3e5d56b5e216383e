"""No module reaches for the private attributes of what another module has defined.

What a class must offer to the rest of the package, but not to the user, it offers by functions of its module
(``model.variable_state``, ``model.restorable``).  So for each private attribute one file says what changes it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import tellurio_sync

PACKAGE = Path(tellurio_sync.__file__).parent

# Private by its name only: public parts of the standard library.
PUBLIC = {"_replace", "_getframe", "_asdict", "_make", "_fields"}

# The backend is another program. These modules use parts of another package or of the standard library, which have no
# public seam for that.
NOT_LOOKED_AT = {"backend"}
FOREIGN = {"afnio/install.py", "ownership.py"}


def reaches(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, name and whether it is changed, for each private attribute of another object that is not of this module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_self(node.value):
            own.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            own |= {item.value for item in ast.walk(node.value) if isinstance(item, ast.Constant)}
        elif isinstance(node, ast.alias):
            own.add(node.asname or node.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not _is_self(node.value):
            is_private = node.attr.startswith("_") and not node.attr.startswith("__")
            if is_private and node.attr not in own | PUBLIC:
                yield node.lineno, node.attr, not isinstance(node.ctx, ast.Load)


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def test_no_module_reaches_for_private_attributes_of_another() -> None:
    found = [
        f"{path.relative_to(PACKAGE).as_posix()}:{line}: {name}{' is changed' if is_changed else ''}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] not in NOT_LOOKED_AT
        and path.relative_to(PACKAGE).as_posix() not in FOREIGN
        for line, name, is_changed in reaches(path)
    ]
    assert found == []


def test_such_a_reach_is_seen(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("class A:\n    def f(self, b):\n        self._a = b._c\n        b._d = b._a\n", encoding="utf-8")
    assert list(reaches(module)) == [(3, "_c", False), (4, "_d", True)]
