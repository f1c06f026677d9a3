"""A divergence as a shell script that runs by itself: lower layers, mount, steps.

The steps are Python, for no shell can hold files open with flags, or map them; what they call is copied from
:mod:`.operations` and :mod:`..linux`, so whoever runs the script needs Python and nothing of ours.
"""

import ast
import os
import platform
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

from .. import linux
from . import operations
from .mounting import Options, kernel_words
from .run import REMOUNT, ROTATE, Finding
from .stacks import placed, shell_of
from .trees import OLD_NS

_HEAD = """\
#!/bin/sh
# {title}
# Found on Linux {release} by: {command}
#
{difference}
#
# Usage: sh {name} [kernel | pyunionfs | both]     (as root; "both" shows the difference)
set -eu
side=${{1:-kernel}}
if [ "$side" = both ]; then
    out=$(mktemp -d)
    sh "$0" kernel >"$out/kernel" 2>&1 || true
    sh "$0" pyunionfs >"$out/pyunionfs" 2>&1 || true
    diff -U 3 "$out/kernel" "$out/pyunionfs" && echo "no difference" || true
    rm -r "$out"
    exit
fi
umask 022
top=$(mktemp -d)
cd "$top"
unmount() {{ mountpoint -q "$top/merged" && umount "$top/merged"; }}
trap 'cd /; unmount || true; rm -rf "$top"' EXIT
mkdir lower0 lower1 lower2 upper work merged
lower=lower0:lower1:lower2
layers=3
remount() {{
    unmount || true
    if [ "$side" = kernel ]; then
        mount -t overlay overlay -o nodev,nosuid,lowerdir=$lower,upperdir=upper,workdir=work,{options} merged
    else
        pyunionfs mount --lower $lower --upper upper --work work -o nodev,nosuid,{options} merged
    fi
}}
rotate() {{
    unmount
    mv upper lower$layers
    rm -r work
    mkdir upper work
    lower=lower$layers:$lower
    layers=$((layers + 1))
    remount
}}
"""

_TAIL = """\
for tree in merged/r upper/r; do
    echo "== $tree"
    [ -d $tree ] || continue
    find $tree ! -type d -printf '%p %y %m %U:%G nlink %n size %s -> %l\\n' -o -printf '%p d %m %U:%G\\n' | sort
    ! command -v getfattr >/dev/null || getfattr -Rhd -m '[.][^.o]*$|opaque' $tree
done
"""

_RUNNER = """\
fd = {}


def step(function, *arguments, user=0):
    result = outcome(function, arguments, user)
    print(f"{function.__name__}{arguments} -> {result!r}")


os.chdir("merged/r")
"""


def script(finding: Finding, options: Options, command: str, name: str = "divergence.sh") -> str:
    """The text of the script."""
    title = finding.difference.splitlines()[0]
    lines = [
        _HEAD.format(
            title=f"A difference between the kernel's overlayfs and pyunionfs: {title}",
            release=platform.release(),
            command=command,
            difference="\n".join("# " + line for line in finding.difference.splitlines()),
            name=name,
            options=",".join(kernel_words(options)),
        ),
        *_lowers(finding),
        "remount",
        *_prelude(step.verb for step, _ in finding.steps),
        *_steps(finding),
        _TAIL,
    ]
    return "\n".join(lines)


def _lowers(finding: Finding) -> Iterator[str]:
    for number, layer in enumerate(finding.layers):
        yield from shell_of(f"lower{number}", {"r": placed(layer, "")})
    yield f"find lower? -exec touch -hd @{OLD_NS // 10**9}.{OLD_NS % 10**9:09} {{}} +"


def _prelude(verbs: Iterable[str]) -> list[str]:
    called = {verb for verb in verbs if hasattr(operations, verb)} | {"outcome"}
    return ["cat >steps.py <<'EOF'", _copied(called), _RUNNER + "EOF"]


def _steps(finding: Finding) -> Iterator[str]:
    begin = ["python3 - <<'EOF'", "from steps import *"]
    lines = list(begin)
    for step, result in finding.steps:
        if step in (REMOUNT, ROTATE):
            yield from [*lines, "EOF", step.verb]
            lines = list(begin)
        else:
            shown = repr(result)
            lines.append(f"{step}  # {shown if len(shown) < 100 else shown[:100] + '...'}")
    yield from [*lines, "EOF"]


# Copying what a step calls, with all that it calls in turn.


@cache
def _definitions(module: ModuleType) -> dict[str, tuple[str, ast.stmt]]:
    """The top-level names of a module that are not imported: source and statement."""
    text = Path(str(module.__file__)).read_text()
    found = {}
    for statement in ast.parse(text).body:
        targets: list[str] = []
        match statement:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                targets = [name]
            case ast.Assign(targets=[ast.Name(id=name)]):
                targets = [name]
        for target in targets:
            decorators = getattr(statement, "decorator_list", [])
            first = min([statement.lineno, *(item.lineno for item in decorators)])
            lines = text.splitlines()[first - 1 : statement.end_lineno]
            found[target] = ("\n".join(lines), statement)
    return found


def _copied(names: Iterable[str]) -> str:
    """The source of these functions of :mod:`.operations` and of all that they need, in their order."""
    known = {**_definitions(linux), **_definitions(operations)}
    needed: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in needed or name not in known:
            continue
        needed.add(name)
        waiting += [node.id for node in ast.walk(known[name][1]) if isinstance(node, ast.Name)]
    modules = "ctypes errno fcntl mmap os stat struct"
    imports = [f"import {module}" for module in modules.split()]
    imports += ["from contextlib import contextmanager", "from collections.abc import Callable, Iterator"]
    imports += ["from typing import Any"]
    return "\n".join(imports) + "\n\n" + "\n\n".join(known[name][0] for name in known if name in needed) + "\n\n"


def write(path: str, text: str) -> None:
    """Put a script where the user wants it, ready to run."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o755)
