"""Writes ``walkv/namespaces/faces.pyi``: the asyncio faces with the signatures of what they serve.

python -m tests.support.stubs
"""

from __future__ import annotations

import builtins
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from walkv.namespaces import aio, faces
from walkv.namespaces.base import Namespace
from walkv.namespaces.common import INTERNAL

PATH = Path(faces.__file__).with_suffix(".pyi")
NAME = re.compile(r"[A-Za-z_]\w*")
HEAD = """# Made by "python -m tests.support.stubs" from the namespaces; see faces.py.

"""


class Stub:
    """Collects classes and the imports they need."""

    def __init__(self) -> None:
        self.imports: dict[str, set[str]] = {}
        self.lines: list[str] = []

    def need(self, name: str, owner: Any) -> None:
        """Import a name as it is seen in the module of ``owner``."""
        if hasattr(builtins, name) or name in ("R", "T"):
            return
        seen = vars(sys.modules[owner.__module__]).get(name)
        if inspect.ismodule(seen):
            self.imports.setdefault("", set()).add(name)
            return
        module = getattr(seen, "__module__", None)
        if inspect.isclass(seen) and module != "builtins":
            self.imports.setdefault(str(module), set()).add(name)
            return
        known = {"Any": "typing", "Self": "typing", "Callable": "collections.abc"}
        known |= {"Iterable": "collections.abc", "Mapping": "collections.abc"}
        known |= {
            "SyncPolicy": "walkv.engine.policies",
            "AbstractAsyncContextManager": "contextlib",
        }
        self.imports.setdefault(known.get(name, owner.__module__), set()).add(name)

    def annotation(self, text: Any, owner: Any, record: str) -> str:
        """An annotation as it is in the stub."""
        shown = "None" if text is None else str(text)
        for name in NAME.findall(shown.replace("builtins.", "")):
            if name not in ("Literal",):
                self.need(name, owner)
        shown = re.sub(r"(?<!\.)\blist\[", "builtins.list[", shown)
        if "builtins." in shown:
            self.imports.setdefault("", set()).add("builtins")
        return re.sub(r"\bR\b", record, shown)

    def method(self, name: str, method: Any, record: str, prefix: str = "async def") -> None:
        """The signature of one method."""
        parts: list[str] = []
        kinds = inspect.Parameter
        parameters = list(inspect.signature(method).parameters.values())
        starred = False
        for number, each in enumerate(parameters):
            if each.kind is kinds.KEYWORD_ONLY and not starred:
                parts.append("*")
                starred = True
            text = each.name
            if each.kind is kinds.VAR_POSITIONAL:
                text, starred = f"*{text}", True
            elif each.kind is kinds.VAR_KEYWORD:
                text = f"**{text}"
            if number:
                text += f": {self.annotation(each.annotation, method, record)}"
            if each.default is not kinds.empty:
                text += " = ..."
            parts.append(text)
            follows = parameters[number + 1 : number + 2]
            last = each.kind is kinds.POSITIONAL_ONLY
            if last and (not follows or follows[0].kind is not kinds.POSITIONAL_ONLY):
                parts.append("/")
        result = self.annotation(inspect.signature(method).return_annotation, method, record)
        self.lines.append(f"    {prefix} {name}({', '.join(parts)}) -> {result}: ...")

    def face(self, cls: type[Namespace[Any]]) -> None:
        """The face of one namespace."""
        generic = cls is Namespace
        record = "R" if generic else cls.declaration.record.__name__
        if not generic:
            self.imports.setdefault(cls.declaration.record.__module__, set()).add(record)
        name = "AsyncGenericNamespace" if generic else f"Async{cls.__name__}"
        self.lines.append(f"class {name}(AsyncNamespace[{record}]):")
        self.lines.append(f"    def query(self, **equals: Any) -> AsyncQuery[{record}]: ...")
        special = vars(aio.AsyncExecutionsBase) if name == "AsyncExecutions" else {}
        for each, method in inspect.getmembers(cls, inspect.isfunction):
            if each.startswith("_") or each in INTERNAL or each == "query":
                continue
            if each == "record":
                self.imports.setdefault("contextlib", set()).add("AbstractAsyncContextManager")
                self.imports.setdefault("walkv.namespaces.executions", set()).add("Recording")
                self.lines.append(
                    "    def record(self, *, sync: SyncPolicy | None = ..., **details: Any) -> "
                    "AbstractAsyncContextManager[Recording]: ..."
                )
            else:
                self.method(each, special.get(each, method), record)
        self.lines.append("")

    def text(self) -> str:
        """The whole stub."""
        lines = [f"import {name}" for name in sorted(self.imports.pop("", set()))]
        self.imports.setdefault("typing", set()).update(("Any", "Final", "TypeVar"))
        aio_names = ("AsyncNamespace", "AsyncQuery")
        self.imports.setdefault("walkv.namespaces.aio", set()).update(aio_names)
        self.imports.setdefault("walkv.namespaces.base", set()).add("Namespace")
        for module in sorted(self.imports):
            lines.append(f"from {module} import {', '.join(sorted(self.imports[module]))}")
        body = ['R = TypeVar("R")', "CLASSES: Final[dict[str, type[Namespace[Any]]]]"]
        body.append("ASYNC_CLASSES: Final[dict[str, type[AsyncNamespace[Any]]]]")
        return HEAD + "\n".join([*lines, "", *body, "", *self.lines])


def make() -> str:
    """The stub as it should be."""
    stub = Stub()
    for cls in (Namespace, *faces.CLASSES.values()):
        stub.face(cls)
    command = [sys.executable, "-m", "ruff"]
    tidy = [[*command, "check", "--quiet", "--fix", "--select", "I", "--stdin-filename", str(PATH)]]
    tidy.append([*command, "format", "--quiet", "--stdin-filename", str(PATH)])
    text = stub.text()
    for each in tidy:
        done = subprocess.run([*each, "-"], input=text, capture_output=True, text=True, check=True)
        text = done.stdout
    return text


if __name__ == "__main__":
    PATH.write_text(make())
