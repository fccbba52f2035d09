"""Filter expressions over columns: what is allowed in them, told before anything is computed.

pandas' own ``query`` runs any method and reaches variables of its callers. An expression here may
come from a command line, a file or a request, so only comparisons, arithmetic and methods that
look at one value at a time pass: their result does not depend on how rows lie in partitions.

The syntax is that of pandas' ``query``, and Arrow computes it on both backends, since cuDF's own
``eval`` knows numbers only. Unlike in ``query`` a null is always neither true nor false, as in SQL:
``caption != 'x'`` and ``caption not in ['x']`` do not choose rows without a caption.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Sequence

from nemo_image_curate.errors import ColumnNotFoundError, ConfigError
from nemo_image_curate.expressions.operations import METHODS

_METHODS = frozenset(name.rpartition(".")[2] for name in METHODS)
_PATTERNS = frozenset({"contains", "match", "fullmatch"})
# What a short text may ask for. Counted repetitions cost milliseconds a row, sums of texts
# gigabytes, and Arrow crashes on rounding to digits that there are not.
_MOST_NODES, _MOST_SUMS, _MOST_PATTERN, _MOST_DIGITS = 1000, 16, 200, 15
# No float is larger, and Python does not write out whole numbers of 4,300 digits.
_MOST_BITS = 1024
_ASSIGNMENT = re.compile(r"(?<![=!<>])=(?!=)")
_TEXT = re.compile("'[^']*'|\"[^\"]*\"")
_UPPER_CASE = re.compile(r"\b(?:AND|OR|NOT|IN)\b")
_VARIABLE = re.compile(r"(?:(\w+)\s+(not\s+)?in\s*)?@(\w+)")
# Nobody means one in a text: they are what Python makes of \b and its like.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_ACCESSORS = frozenset(name.rpartition(".")[0] for name in METHODS) - {""}
_NODES = (
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Invert, ast.USub),
    *(ast.UAdd, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
    *(ast.BitAnd, ast.BitOr, ast.BitXor, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE),
    *(ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple),
    *(ast.Call, ast.keyword, ast.Attribute),
)
# As Python writes it; a column of this name comes first.
INFINITY = "inf"
EXAMPLE = "Compare columns with values, for example: width >= 256 and label == 'cat'"


def check(expression: str, columns: Sequence[str]) -> list[str]:
    """Refuse an expression with something in it that is not allowed.

    Parameters
    ----------
    expression : str
    columns : sequence of str

    Returns
    -------
    list of str
        The columns that it looks at, in the order of `columns`.

    Raises
    ------
    ColumnNotFoundError, ConfigError
    """
    used: set[str] = set()
    tree, quoted = parse(expression)
    nodes = list(ast.walk(tree))
    sums = sum(isinstance(node, ast.Add) for node in nodes)
    if len(nodes) > _MOST_NODES or sums > _MOST_SUMS:
        raise _refused(expression, "so long a calculation")
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    owners = {id(node.value) for node in nodes if id(node) in called and hasattr(node, "value")}
    for node in nodes:
        if not isinstance(node, _NODES):
            raise _refused(expression, type(node).__name__)
        if isinstance(node, ast.Name):
            name = quoted.get(node.id, node.id)
            if node.id == INFINITY and name not in columns:
                continue
            if name not in columns:
                raise ColumnNotFoundError(name, columns)
            used.add(name)
        elif isinstance(node, ast.Constant) and not isinstance(node.value, (str, int, float)):
            refused = "None (use .isna())" if node.value is None else f"{node.value!r}"
            raise _refused(expression, refused)
        elif isinstance(node, ast.Constant) and _CONTROL.search(str(node.value)):
            raise _control_character(str(node.value), expression)
        elif isinstance(node, ast.Attribute):
            is_accessor = node.attr in _ACCESSORS and id(node) in owners
            if not (node.attr in _METHODS if id(node) in called else is_accessor):
                raise _refused(expression, f".{node.attr}")
        elif isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Attribute):
                raise _refused(
                    expression, "calling a function", _hint(ast.unparse(node.func), quoted)
                )
            _check_call(node, node.func.attr, expression)
    return [name for name in columns if name in used]


def _check_call(node: ast.Call, name: str, expression: str) -> None:
    values = [
        argument.value if isinstance(argument, ast.Constant) else None for argument in node.args
    ]
    if name == "round":
        few = all(isinstance(value, int) and value <= _MOST_DIGITS for value in values)
        if node.keywords or len(values) > 1 or not few:
            raise _refused(expression, f".round of anything but 0 to {_MOST_DIGITS} digits")
    elif name in _PATTERNS:
        pattern = values[0] if len(values) == 1 else None
        if not isinstance(pattern, str) or len(pattern) > _MOST_PATTERN or "{" in pattern:
            raise _refused(
                expression,
                f".{name} of anything but one text of at most {_MOST_PATTERN} characters and "
                "without {",
            )
        if any(keyword.arg not in ("case", "regex") for keyword in node.keywords):
            raise _refused(expression, f"what is named in .{name}")


@functools.lru_cache(64)
def parse(expression: str) -> tuple[ast.Expression, dict[str, str]]:
    """The tree of an expression, and which of its names stand for `` `quoted columns` ``.

    Raises
    ------
    ConfigError
        When it is no expression.
    """
    quoted, plain = _unquoted(expression)
    try:
        tree = ast.parse(_booleans(plain), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        problem = error.msg if isinstance(error, SyntaxError) else error
        raise ConfigError(
            f"cannot use the expression {expression!r}: {problem}.{_hint(plain, quoted)} {EXAMPLE}"
        ) from error
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    if any(isinstance(value, int) and value.bit_length() > _MOST_BITS for value in constants):
        raise _refused(expression, f"a whole number of more than {_MOST_BITS:,} bits")
    # Two backticks inside texts look like quotes of all that is between them.
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    hidden = any(name in str(value) for name in quoted for value in constants)
    if "`" in plain or hidden or quoted.keys() - names:
        raise _refused(expression, "a backtick inside a text")
    return tree, quoted


def _hint(plain: str, quoted: dict[str, str]) -> str:
    """What to write in place of what pandas or SQL would take."""
    code = _TEXT.sub("", plain)
    hint = " What is equal is written ==." if _ASSIGNMENT.search(code) else ""
    if _UPPER_CASE.search(code):
        hint += " Write and, or, not and in in lower case."
    if variable := _VARIABLE.search(code):
        column, negation, name = variable.groups()
        column = quoted.get(column, column or "COLUMN")
        hint += (
            " Variables of Python are not known in it; filter by a list with "
            f"ds.filter({'~' if negation else ''}ds.metadata[{column!r}].isin({name}))."
        )
    return hint


def _unquoted(expression: str) -> tuple[dict[str, str], str]:
    """Quoted columns by the names put in their places, and the expression with those."""
    quoted: dict[str, str] = {}
    prefix = "_quoted"
    while prefix in expression:
        prefix += "_"

    def placeholder(match: re.Match[str]) -> str:
        name = next((name for name, column in quoted.items() if column == match[1]), None)
        name = name or f"{prefix}{len(quoted)}_"
        quoted[name] = match[1]
        return name

    return quoted, re.sub(r"`([^`]*)`", placeholder, expression.strip())


def _booleans(text: str) -> str:
    """With ``and`` and ``or`` for & and |, which in ``query``, too, bind less than comparisons."""
    words = {"&": (tokenize.NAME, "and"), "|": (tokenize.NAME, "or")}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return tokenize.untokenize(words.get(token.string, token[:2]) for token in tokens)


def _control_character(text: str, expression: str) -> ConfigError:
    letters = {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\v": r"\v", "\r": r"\r"}
    written = _CONTROL.sub(lambda match: letters.get(match[0], ascii(match[0])[1:-1]), text)
    return ConfigError(
        f"the text {text!r} in the expression {expression!r} holds a control character, which "
        f"Python makes of a backslash in a text without r. Write r'{written}' or {written!r}; in "
        "a program, put r before the whole expression, too."
    )


def _refused(expression: str, refused: str, hint: str = "") -> ConfigError:
    return ConfigError(
        f"{refused} is not allowed in the expression {expression!r}.{hint} Allowed are "
        f"comparisons, arithmetic, and the methods {', '.join(sorted(_METHODS))} (of texts "
        "after .str). For anything else filter in Python: ds.metadata[...]"
    )
