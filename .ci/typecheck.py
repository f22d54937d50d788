"""Check types with pyright as if methods that are added by fastcore's `@patch` were written in their class.

pyright does not know `@patch`: it would report each such method as unknown wherever it is called. So it reads a copy in
which these methods stand in their classes; what it finds is printed with the places in the real files.
Which files are checked and by which rules is said in pyrightconfig.json.
"""
import ast
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# nn.Module answers every attribute with `Tensor | Module`, so that no registered buffer could be used in arithmetic.
ANY_BUFFER = "    def __getattr__(self, name: str) -> typing.Any: ..."
# A method may name a class further down.
START = "from __future__ import annotations; import typing"


def patched(node: ast.stmt) -> ast.expr | None:
    "The `@patch` of a function or an async one, if it has it."
    decorators = node.decorator_list if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else []
    return next((d for d in decorators if ast.unparse(d).split("(")[0] == "patch"), None)


def method(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list) -> list:
    "A patched function as lines of a method, each with the number of the line it comes from."
    patch, first = patched(node), node.args.args[0]
    options = {k.arg for k in patch.keywords} if isinstance(patch, ast.Call) else set()
    kinds = {"as_prop": "property", "cls_method": "classmethod"}
    found = [(f"    @{kinds[option]}", patch.lineno) for option in options & kinds.keys()]
    found += [(f"    @{ast.unparse(d)}", d.lineno) for d in node.decorator_list if d is not patch]
    for n in range(node.lineno, node.end_lineno + 1):
        line = lines[n - 1]
        if n == first.lineno:  # `self:Portrait` -> `self`
            line = line[:first.col_offset] + first.arg + line[first.end_col_offset:]
        found.append(("    " + line if line else line, n))
    return found


def folded(text: str) -> list:
    "The lines of a module with patched methods in their classes, each with the number of the line it comes from."
    lines, body = text.splitlines(), ast.parse(text).body
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    inside, moved = {}, set()
    for node in classes.values():
        if any(ast.unparse(base) in ("nn.Module", "L.LightningModule") for base in node.bases):
            inside[node.end_lineno] = [(ANY_BUFFER, node.lineno)]
    for node in body:
        of = ast.unparse(node.args.args[0].annotation) if patched(node) else None
        if of in classes:
            inside.setdefault(classes[of].end_lineno, []).extend(method(node, lines))
            moved |= set(range(node.decorator_list[0].lineno, node.end_lineno + 1))
    start = body[0].end_lineno if body and isinstance(body[0], ast.Expr) else 0
    inside.setdefault(start, []).insert(0, (START, 1))
    found = []
    for n, line in enumerate(["", *lines]):
        found += [(line, n)] if n and n not in moved else []
        found += inside.get(n, [])
    return found


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        copy, origin = Path(folder).resolve(), {}
        for path in (ROOT / "dnerf").rglob("*.py"):
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            text = folded(path.read_text(encoding="utf-8"))
            target.write_text("\n".join(line for line, _ in text) + "\n", encoding="utf-8")
            origin[target] = [n for _, n in text]
        shutil.copy2(ROOT / "pyrightconfig.json", copy)
        command = [sys.executable, "-m", "pyright", "-p", str(copy), "--pythonpath", sys.executable, "--outputjson"]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
        if not done.stdout.lstrip().startswith("{"):
            print(done.stdout + done.stderr, file=sys.stderr)
            return 2
        for found in json.loads(done.stdout)["generalDiagnostics"]:
            path = Path(found["file"])
            line = origin[path][found["range"]["start"]["line"]]
            print(f"{path.relative_to(copy)}:{line}: {found['message']} ({found.get('rule', 'syntax')})")
    return 1 if done.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
