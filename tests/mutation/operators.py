"""Mutants of a source text: each changes one place, in a way that a test should notice.

Never changed: docstrings and other strings, annotations, `if TYPE_CHECKING:`, what a log or an error says.
"""

import ast
import re
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: ("<", ["<=", ">="]), ast.LtE: ("<=", ["<", ">"]), ast.Gt: (">", [">=", "<="]), ast.GtE: (">=", [">", "<"]),
    ast.Eq: ("==", ["!="]), ast.NotEq: ("!=", ["=="]), ast.Is: ("is", ["is not"]), ast.IsNot: (r"is\s+not", ["is"]),
    ast.In: ("in", ["not in"]), ast.NotIn: (r"not\s+in", ["in"]),
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"), ast.Pow: ("**", "*"), ast.LShift: ("<<", ">>"), ast.BitAnd: ("&", "|"),
}  # fmt: skip
# x.method(...) -> x: casts, copies, masks and what brings a text or tensor into its form.
DROPPED_METHODS = {
    "to", "float", "double", "half", "long", "int", "bool", "type_as", "type", "clone", "copy", "contiguous",
    "detach", "cpu", "numpy", "masked_fill", "masked_fill_", "where", "clamp", "clamp_", "clip", "squeeze",
    "unsqueeze", "flatten", "transpose", "t", "flip", "abs", "sqrt", "exp", "softmax", "log_softmax", "sum", "mean",
    "cumsum", "strip", "lstrip", "rstrip", "lower", "upper", "resolve", "expanduser", "absolute", "removeprefix",
    "removesuffix", "replace", "sort", "unique", "tril", "triu", "fill_", "zero_", "requires_grad_", "eval",
    "train", "expand", "repeat", "roll", "round",
}  # fmt: skip
# f(x) -> x
DROPPED_FUNCTIONS = {"int", "float", "bool", "str", "list", "tuple", "sorted", "abs", "reversed", "set", "round"}
SWAPPED_FUNCTIONS = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "minimum": "maximum",
    "maximum": "minimum",
}
# What changes no answer: sizes of caches, depths of warnings, how JSON looks, who waits, a check of equal lengths.
IDLE_KEYWORDS = {"maxsize", "stacklevel", "indent", "sort_keys", "non_blocking", "daemon", "strict"}


@dataclass(frozen=True)
class Mutant:
    """The bytes from `start` to `end` become `new`; `first` to `last` are the lines of the statement around them.

    `at_import` says that the statement runs when the module is imported.
    """

    file: str
    line: int
    first: int
    last: int
    start: int
    end: int
    old: str
    new: str
    kind: str
    at_import: bool

    def applied(self, source):
        return source[: self.start] + self.new.encode() + source[self.end :]


class Operators(ast.NodeVisitor):
    """Walks a syntax tree and collects the mutants of every place."""

    def __init__(self, file, source):
        self.file, self.source, self.found = file, source, []
        self.starts = [0]
        for row in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(row))
        self.first = self.last = 1
        self.depth = 0

    def span(self, node):
        start = self.starts[node.lineno - 1] + node.col_offset
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node):
        start, end = self.span(node)
        return self.source[start:end].decode()

    def add(self, kind, start, end, new):
        line = self.source[:start].count(b"\n") + 1
        old = self.source[start:end].decode()
        place = self.file, line, self.first, self.last, start, end
        self.found.append(Mutant(*place, old, new, kind, not self.depth))

    def between(self, left, right, pattern):
        """The span of an operator between two operands."""
        start, end = self.span(left)[1], self.span(right)[0]
        gap = re.sub(rb"#[^\n]*", lambda comment: b" " * len(comment[0]), self.source[start:end])
        match = re.search(pattern.encode(), gap)
        return start + match.start(), start + match.end()

    def visit(self, node):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            self.first = node.lineno
            self.last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno
        super().visit(node)

    # Where not to go

    def visit_arguments(self, node):
        for default in filter(None, [*node.defaults, *node.kw_defaults]):
            self.visit(default)

    def visit_function(self, node):
        for part in [*node.decorator_list, node.args]:
            self.visit(part)
        self.depth += 1
        for part in node.body:
            self.visit(part)
        self.depth -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = visit_function  # noqa: N815

    def visit_AnnAssign(self, node):
        if node.value is not None:
            self.visit(node.value)

    def visit_JoinedStr(self, node):
        pass

    def visit_Raise(self, node):
        self.remove("statement removed", node)

    def visit_Assert(self, node):
        pass

    def remove(self, kind, node):
        self.add(kind, *self.span(node), "pass")

    # Statements

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Constant):
            return
        called = self.text(node.value.func) if isinstance(node.value, ast.Call) else ""
        is_message = re.match(r"(logger|logging|warnings)\.", called) is not None
        if isinstance(node.value, ast.Call) and not re.match(r"logger\.(debug|info)", called):
            self.remove("statement removed", node)
        if not is_message:
            self.visit(node.value)

    def visit_Assign(self, node):
        if isinstance(node.targets[0], (ast.Attribute, ast.Subscript)):
            self.remove("statement removed", node)
        self.generic_visit(node)

    def visit_AugAssign(self, node):
        self.remove("statement removed", node)
        new = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*"}.get(type(node.op))
        if new and not self.is_text(node.value):
            start, end = self.between(node.target, node.value, r"\S=")
            self.add("arithmetic", start, end, f"{new}=")
        self.visit(node.value)

    def visit_Continue(self, node):
        self.remove("statement removed", node)

    visit_Break = visit_Delete = visit_Continue  # noqa: N815

    def visit_If(self, node):
        if "TYPE_CHECKING" in self.text(node.test):
            return
        self.negate(node.test)
        self.generic_visit(node)
        for child in node.body:
            if isinstance(child, ast.Return):
                self.first, self.last = child.lineno, child.end_lineno
                self.remove("statement removed", child)

    def visit_While(self, node):
        self.negate(node.test)
        self.generic_visit(node)

    # Expressions

    def negate(self, test):
        """The branches of a condition, swapped; a comparison or `not` there is negated by its own operator."""
        if not isinstance(test, (ast.Compare, ast.UnaryOp)):
            self.add("branches swapped", *self.span(test), f"not ({self.text(test)})")

    def visit_IfExp(self, node):
        text = f"({self.text(node.orelse)}) if {self.text(node.test)} else ({self.text(node.body)})"
        self.add("branches swapped", *self.span(node), text)
        self.generic_visit(node)

    def visit_Compare(self, node):
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            pattern, others = COMPARISONS[type(operator)]
            for new in others:
                self.add("comparison", *self.between(left, right, pattern), new)
        self.generic_visit(node)

    def is_text(self, node):
        return isinstance(node, (ast.JoinedStr, ast.List, ast.Tuple)) or (
            isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))
        )

    def visit_BinOp(self, node):
        if type(node.op) in ARITHMETIC and not self.is_text(node.left) and not self.is_text(node.right):
            old, new = ARITHMETIC[type(node.op)]
            self.add("arithmetic", *self.between(node.left, node.right, re.escape(old)), new)
        self.generic_visit(node)

    def visit_BoolOp(self, node):
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.add("and/or", *self.between(left, right, rf"\b{old}\b"), new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        if isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
            self.add("operator dropped", *self.span(node), f"({self.text(node.operand)})")
        self.generic_visit(node)

    def visit_keyword(self, node):
        if node.arg not in IDLE_KEYWORDS:
            self.visit(node.value)

    def visit_Call(self, node):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("cast", "TypeVar"):
            return
        if isinstance(node.func, ast.Attribute) and name in DROPPED_METHODS and not self.is_module(node.func.value):
            before = self.source[self.span(node)[0] : self.span(node.func)[1] - len(name)].decode()
            self.add("call dropped", *self.span(node), before.rstrip().removesuffix(".").rstrip())
        elif name in DROPPED_FUNCTIONS and isinstance(node.func, ast.Name) and len(node.args) == 1:
            self.add("call dropped", *self.span(node), f"({self.text(node.args[0])})")
        if name in SWAPPED_FUNCTIONS:
            end = self.span(node.func)[1]
            self.add("function swapped", end - len(name), end, SWAPPED_FUNCTIONS[name])
        self.generic_visit(node)

    def is_module(self, node):
        return isinstance(node, ast.Name) and node.id in {"torch", "np", "F", "nn", "math", "shutil", "os", "tl", "re"}

    def visit_Constant(self, node):
        value = node.value
        if isinstance(value, bool):
            self.add("constant", *self.span(node), str(not value))
        elif isinstance(value, int):
            self.add("constant", *self.span(node), str(value + 1))
            if value > 0:
                self.add("constant", *self.span(node), str(value - 1))
        elif isinstance(value, float) and value == value:
            self.add("constant", *self.span(node), repr(value + 1 if value + 1 != value else value / 2))


def mutants(file, source):
    """All mutants of a file's source, in bytes, that are another program; in the order of the text."""
    walk = Operators(file, source)
    tree = ast.parse(source)
    walk.visit(tree)
    return sorted(set(walk.found), key=lambda mutant: (mutant.start, mutant.end, mutant.new))


def is_another_program(mutant, source):
    """Whether the text with the mutant still is Python, and not the same."""
    try:
        changed = ast.parse(mutant.applied(source))
    except SyntaxError:
        return False
    return ast.dump(changed) != ast.dump(ast.parse(source))
