"""Mutation testing of what mutmut leaves out: C++, and in Python constants and decorated functions.

    python tests/mutate.py csrc/lvae_math.h tests/test_fused.py -k "accurate or finite"
    python tests/mutate.py lvae_min/losses.py tests/test_losses.py

In a copy of the repository one operator, comparison or number of the file is changed at a time, and pytest is
run with the arguments that follow. A change that it does not notice is printed, and their number at the end.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SWAPS = {  # what stands in the place of an operator, one at a time
    **{"+": ["-"], "-": ["+"], "*": ["/"], "/": ["*"], "//": ["*"], "**": ["*"], "<<": [">>"], "+=": ["-="]},
    **{"==": ["!="], "!=": ["=="], "<": ["<=", ">="], "<=": ["<", ">"], ">": [">=", "<="], ">=": [">", "<"]},
    **{"and": ["or"], "or": ["and"], "True": ["False"], "False": ["True"], "&&": ["||"], "||": ["&&"]},
    **{"?": ["|| true ?", "&& false ?"], "::expm1": ["::exp"], "std::fabs": [""]},
}
OPERATOR = "|".join(re.escape(name) for name in sorted(SWAPS, key=len, reverse=True))
TOKEN = (
    r'(?s:""".*?""")|"(?:\\.|[^"\\\n])*"|{comment}|^#.*|^template.*'  # stays
    rf"|(?P<operator>(?<=[\s(])(?:{OPERATOR})(?=[\s(),:\])]))"
    r"|(?P<sign>(?<=[\s(])-(?=[\w(:]))|(?P<number>(?<![\w.])\d[\d_]*(?:\.\d*)?(?:e[-+]?\d+)?(?=f?\b))"
)


def left_out_by_mutmut(code: str) -> set[int]:
    """The lines of a Python file outside of functions, and those of functions with a decorator."""
    lines, simple = set(range(1, code.count("\n") + 2)), {"staticmethod", "classmethod"}
    for node in ast.walk(ast.parse(code)):
        if (
            isinstance(node, ast.FunctionDef)
            and {ast.unparse(each) for each in node.decorator_list} <= simple
        ):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return lines


def in_place_of(found: re.Match) -> list[str]:
    if found.lastgroup != "number":
        return SWAPS[found.group()] if found.lastgroup == "operator" else [""] * (found.lastgroup == "sign")
    value = ast.literal_eval(found.group())
    return (
        [str(value + 1)]
        if isinstance(value, int)
        else [repr(value * 2), repr(value * 1.01)]
        if value
        else ["1.0"]
    )


def changes(file: Path):
    """Each change as its line's number, that line before and after, and the whole text after it."""
    code, python = file.read_text(), file.suffix == ".py"
    wanted = left_out_by_mutmut(code) if python else range(code.count("\n") + 2)
    for found in re.finditer(TOKEN.format(comment="#.*" if python else "//.*"), code, re.MULTILINE):
        line = code.count("\n", 0, found.start()) + 1
        for other in in_place_of(found) if line in wanted else []:
            whole = code[: found.start()] + other + code[found.end() :]
            yield line, *(text.splitlines()[line - 1].strip() for text in (code, whole)), whole


def main(name: str, *arguments: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "mutants", "runs"))
        environment = {**os.environ, "TORCH_EXTENSIONS_DIR": f"{folder}/built", "PYTHONPATH": str(copy)}

        def works(*command: str) -> bool:
            command = (sys.executable, *command)
            try:
                done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=300)
            except subprocess.TimeoutExpired:
                return False
            return done.returncode == 0

        compiles = ["-c", "import sys; from lvae_min import fused; sys.exit(fused.why_not() or 0)"]
        compiles = ["-m", "py_compile", name] if name.endswith(".py") else compiles
        tests = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments]
        if not (works(*compiles) and works(*tests)):
            sys.exit("the tests fail without a change")
        counted = noticed = 0
        for line, before, after, whole in changes(ROOT / name):
            (copy / name).write_text(whole)
            if not works(*compiles):
                continue
            counted += 1
            if not works(*tests):
                noticed += 1
            else:
                print(f"{name}:{line}\n  - {before}\n  + {after}", flush=True)
    print(f"{name}: {noticed} of {counted} changes noticed")


if __name__ == "__main__":
    main(*sys.argv[1:])
