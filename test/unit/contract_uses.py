"""What our sources use of torch_npu: every name, and the arguments of every call, read off their syntax trees."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Use:
    """One place where a source reaches into torch_npu: `kind` is import (or a new name), read, call or assignment."""

    place: str
    name: str
    kind: str = "read"
    positional: int = 0
    keywords: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """As it stands in the source, more or less."""
        arguments = ["…"] * self.positional + [f"{keyword}=" for keyword in self.keywords]
        ending = {"call": f"({', '.join(arguments)})", "assignment": " = …"}.get(self.kind, "")
        return f"{self.place}: {self.name}{ending}"


class Collector(ast.NodeVisitor):
    """Finds the uses in one source, through whatever local names torch and torch_npu have there."""

    def __init__(self, file: str, tree: ast.Module, forwarded: dict[str, set[str]] | None = None):
        self.file, self.forwarded = file, forwarded or {}
        self.uses: list[Use] = []
        self.functions: list[ast.FunctionDef] = []
        self.attributes: dict[str, set[str]] = {}  # the like of self.tool, in the whole file
        for _ in range(2):  # the first time finds the attributes
            self.uses = []
            self.aliases = self._aliases_of(tree, {})
            self.visit(tree)

    def _aliases_of(self, scope: ast.AST, outer: dict[str, set[str]]) -> dict[str, set[str]]:
        """Local name → the dotted names that it may stand for."""
        self.aliases = dict(outer)
        if isinstance(scope, ast.FunctionDef):
            arguments = scope.args.posonlyargs + scope.args.args + scope.args.kwonlyargs
            for argument in arguments:
                self.aliases.pop(argument.arg, None)
        found: dict[str, set[str]] = {}
        for node in nodes_of(scope):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    whole = alias.name if alias.asname else alias.name.split(".")[0]
                    found.setdefault(alias.asname or whole, set()).add(whole)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                for alias in node.names:
                    found.setdefault(alias.asname or alias.name, set()).add(f"{node.module}.{alias.name}")
        self.aliases |= found
        for node in nodes_of(scope):
            if isinstance(node, ast.Assign) and (names := self.dotted(node.value)):
                for target in map(ast.unparse, node.targets):
                    known = self.attributes if "." in target else self.aliases
                    known[target] = known.get(target, set()) | names
        return self.aliases

    def dotted(self, node: ast.AST) -> set[str]:
        """The dotted names that an expression may stand for; torch.npu is torch_npu.npu."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id, set())
        if isinstance(node, ast.Attribute) and ast.unparse(node) in self.attributes:
            return self.attributes[ast.unparse(node)]
        if isinstance(node, ast.Attribute):
            return {_canonical(f"{name}.{node.attr}") for name in self.dotted(node.value)}
        if isinstance(node, ast.IfExp):
            return self.dotted(node.body) | self.dotted(node.orelse)
        if isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func)
            first = node.args[0]
            if called.endswith("import_module") and isinstance(first, ast.Constant):
                return {first.value}
            if called.endswith("get_device_module"):
                return {"torch_npu.npu"}
            if called == "getattr":
                if isinstance(node.args[1], ast.Constant):
                    return {_canonical(f"{name}.{node.args[1].value}") for name in self.dotted(first)}
                # of torch, by the name of a kind of device; of torch_npu, anything
                return {"torch_npu.npu" if name == "torch" else f"{name}.?" for name in self.dotted(first)}
        return set()

    def _add(self, node: ast.AST, kind: str = "read", call: ast.Call | None = None) -> None:
        target = node.func if isinstance(node, ast.Call) and call is node else node
        for name in sorted(self.dotted(target)):
            if name.split(".")[0] == "torch_npu":
                use = Use(f"{self.file}:{node.lineno}", name, kind)
                if call:
                    use.positional = len([a for a in call.args if not isinstance(a, ast.Starred)])
                    use.keywords = [keyword.arg for keyword in call.keywords if keyword.arg]
                    if len(call.args) > use.positional:
                        use.keywords.append("*")
                    for keyword in call.keywords:
                        if not keyword.arg:
                            use.keywords += self._keywords_behind(keyword.value)
                self.uses.append(use)

    def _keywords_behind(self, node: ast.AST) -> list[str]:
        """Those of `**name`, where name gathers what the sources pass to the function around; else ["**"]."""
        function = self.functions[-1] if self.functions else None
        if function and isinstance(node, ast.Name) and function.args.kwarg and function.args.kwarg.arg == node.id:
            own = {argument.arg for argument in function.args.args + function.args.kwonlyargs}
            return sorted(self.forwarded.get(function.name, {"**"}) - own)
        return ["**"]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """A scope of its own."""
        outer = self.aliases
        self._aliases_of(node, outer)
        self.functions.append(node)
        self.generic_visit(node)
        self.functions.pop()
        self.aliases = outer

    def visit_Import(self, node: ast.Import) -> None:
        """An imported module must be there."""
        names = [alias.name for alias in node.names if alias.name.split(".")[0] == "torch_npu"]
        self.uses += [Use(f"{self.file}:{node.lineno}", name, "import") for name in names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """And so must names imported from it."""
        for alias in node.names:
            name = _canonical(f"{node.module}.{alias.name}")
            if name.split(".")[0] == "torch_npu":
                self.uses.append(Use(f"{self.file}:{node.lineno}", name, "import"))

    def visit_Assign(self, node: ast.Assign) -> None:
        """A new name for something in torch_npu is one that is followed."""
        if self.dotted(node.value):
            self._add(node.value, "import")
        else:
            self.visit(node.value)
        for target in node.targets:
            if not (isinstance(target, ast.Attribute) and ast.unparse(target) in self.attributes):
                self.visit(target)

    def visit_Name(self, node: ast.Name) -> None:
        """A module by itself."""
        if isinstance(node.ctx, ast.Load):
            self._add(node)

    def visit_Call(self, node: ast.Call) -> None:
        """The called name with its arguments, and whatever is in these."""
        if self.dotted(node.func):
            self._add(node, "call", node)
        elif self.dotted(node):
            self._add(node)
        else:
            self.visit(node.func)
        for argument in node.args + node.keywords:
            self.visit(argument)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """The longest chain of names; what is before it only where that is no chain."""
        if self.dotted(node):
            self._add(node, "read" if isinstance(node.ctx, ast.Load) else "assignment")
        else:
            self.visit(node.value)


def nodes_of(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes in a module or function, without those in functions inside it."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, ast.FunctionDef):
            yield from nodes_of(node)


def _canonical(name: str) -> str:
    return re.sub(r"^torch\.npu\b", "torch_npu.npu", name)


def uses_in(sources: dict[str, str]) -> list[Use]:
    """All uses in sources, file name → text."""
    trees = {file: ast.parse(text) for file, text in sources.items()}
    forwarded: dict[str, set[str]] = {}
    for tree in trees.values():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            function = ast.unparse(call.func).split(".")[-1]
            forwarded.setdefault(function, set()).update(keyword.arg or "**" for keyword in call.keywords)
    return [use for file, tree in trees.items() for use in Collector(file, tree, forwarded).uses]
