"""HCL text to a plain document, by way of python-hcl2's parse tree.

The tree is read here and not by python-hcl2's own serializer, because that takes the last of two
attributes with one name, hands expressions on as text, and doubles the time.

Names of grammar rules (``attribute``, ``expr_term`` …) are those of python-hcl2's hcl2.lark; one
that is not known here is refused as an expression, so that nothing is ever read wrongly.
"""

from __future__ import annotations

import os
import stat
import sys
from functools import lru_cache
from importlib import import_module
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from rait.adapters import caches
from rait.domain.keytext import shown
from rait.domain.problem import Path

if TYPE_CHECKING:
    from lark import Token, Tree

_ROOT_CACHE = "/var/cache/rait"
_OPEN_ENDED = "the text ends too early: a quote or a brace is not closed"


class HclError(ValueError):
    """Text is not HCL, or holds what rait does not evaluate; ``line`` and ``column`` from 1."""

    def __init__(self, message: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


def parse(text: str) -> tuple[dict[str, Any], dict[Path, int]]:
    """The document, and the line of each attribute and block by its path.

    Blocks become lists of mappings, as many as there are of one name. Raises ``HclError``, whose
    text never quotes a value.
    """
    from lark.exceptions import LarkError, UnexpectedInput

    parser = _parser()
    try:
        tree = parser(text)
    except UnexpectedInput as error:
        raise _syntax_error(error, text) from None
    except LarkError:
        raise HclError("the text is not HCL") from None
    lines: dict[Path, int] = {}
    return _body(tree.children[0], (), lines), lines


def _parser() -> Any:
    """The parser, with its grammar tables cached where we may write.

    Building the tables takes seconds. python-hcl2 caches them next to its own code, where a user
    without write access can never put them.
    """
    # The package has a function of the same name as this module of it.
    module: Any = import_module("hcl2.parser")
    directory = cache_directory()
    if directory is not None:
        import lark
        from hcl2 import __version__

        # All that the tables depend on, so that those which are there fit.
        made_by = "hcl2-{}-lark{}-py{}.{}".format(
            __version__, lark.__version__, *sys.version_info[:2]
        )
        module.PARSER_FILE = directory / f"{made_by}.cache"
    if not caches.may_be_written() and not module.PARSER_FILE.exists():
        return _uncached_parser(module)
    from hcl2 import parses_to_tree

    return parses_to_tree


@lru_cache(1)
def _uncached_parser(module: Any) -> Any:
    """The same parser, for who may not keep its tables: python-hcl2 always would."""
    from lark import Lark

    # As python-hcl2's own, but for the cache.
    grammar = Lark.open(
        "hcl2.lark",
        parser="lalr",
        rel_to=module.__file__,
        propagate_positions=True,
        postlex=module.PostLexer(),
    )
    return lambda text: grammar.parse(text + "\n")


def cache_directory() -> FilePath | None:
    """A directory for the parser's tables that only we can write to, or None.

    The cache is a pickle: who writes it runs code as us. So the directory must be ours, closed
    to all others, no symbolic link, and in a directory where others cannot replace it.
    """
    if os.geteuid() == 0:
        path = FilePath(_ROOT_CACHE)
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME", "") + "/.cache"
        path = FilePath(base) / "rait"
    return path if is_safe_directory(path) else None


def is_safe_directory(path: FilePath) -> bool:
    """Make the directory if need be and may be; whether it may hold what we will later run."""
    if not path.is_absolute():
        return False
    try:
        if caches.may_be_written():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
        own, parent = path.lstat(), path.parent.stat()
    except OSError:
        return False
    open_to_others = stat.S_IWGRP | stat.S_IWOTH
    sticky = bool(parent.st_mode & stat.S_ISVTX)
    return (
        stat.S_ISDIR(own.st_mode)
        and own.st_uid == os.geteuid()
        and not own.st_mode & 0o077
        and parent.st_uid in (0, os.geteuid())
        and (sticky or not parent.st_mode & open_to_others)
        and os.access(path, os.W_OK)
    )


def _syntax_error(error: Any, text: str) -> HclError:
    from rait.adapters import hcl_faults

    fault = hcl_faults.find(text, error.line, error.column)
    if fault is not None:
        return HclError(*fault)
    token = getattr(error, "token", None)
    if token is not None and token.type == "$END":
        return HclError(_OPEN_ENDED, error.line, error.column)
    return HclError("this is not valid HCL here", error.line, error.column)


def _refuse(node: Tree[Token] | Token, key: str) -> HclError:
    line, column = _position(node)
    message = f"{shown(key)} is an expression; write out its value (text in quotes)"
    return HclError(message, line, column)


def _position(node: Any) -> tuple[int | None, int | None]:
    at = getattr(node, "meta", node)
    return getattr(at, "line", None), getattr(at, "column", None)


def _body(body: Any, path: Path, lines: dict[Path, int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    blocks: set[str] = set()
    for node in body.children:
        if node.data == "attribute":
            key = str(node.children[0].children[0])
            if key in found:
                raise HclError(f"{shown(key)} is given twice", node.meta.line, node.meta.column)
            lines[*path, key] = node.meta.line
            found[key] = _value(node.children[2], key)
        elif node.data == "block":
            _block(node, path, lines, found, blocks)
    return found


def _block(
    node: Any, path: Path, lines: dict[Path, int], found: dict[str, Any], blocks: set[str]
) -> None:
    key = str(node.children[0].children[0])
    line, column = node.meta.line, node.meta.column
    if any(getattr(child, "data", "") in ("string", "identifier") for child in node.children[1:]):
        raise HclError(
            f"the block {shown(key)} has a label, which means nothing here", line, column
        )
    if key in found and key not in blocks:
        raise HclError(f"{shown(key)} is given as a value and as a block", line, column)
    blocks.add(key)
    items = found.setdefault(key, [])
    here = (*path, key, len(items))
    lines.setdefault((*path, key), line)
    lines[here] = line
    body = next(c for c in node.children if getattr(c, "data", "") == "body")
    items.append(_body(body, here, lines))


def _value(node: Any, key: str) -> Any:
    if node.data == "unary_op" and str(node.children[0]) == "-":
        # The grammar takes -15 for a number, but -5 for the negative of one.
        value = _value(node.children[1], key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return -value
        raise _refuse(node, key)
    if node.data != "expr_term" or len(node.children) != 1:
        raise _refuse(node, key)
    inner = node.children[0]
    kind = inner.data
    if kind == "string":
        return _string(inner, key)
    if kind == "int_lit":
        return _integer(inner, key)
    if kind == "literal_value":
        return {"true": True, "false": False, "null": None}[str(inner.children[0])]
    if kind == "float_lit":
        return float(inner.children[0])
    if kind == "tuple":
        return [_value(child, key) for child in inner.children if _is_expression(child)]
    if kind == "object":
        return _object(inner, key)
    if kind in ("heredoc_template", "heredoc_template_trim"):
        return _heredoc(inner, key, trim=kind.endswith("trim"))
    raise _refuse(inner, key)


def _is_expression(node: Any) -> bool:
    return getattr(node, "data", "new_line_or_comment") != "new_line_or_comment"


def _integer(node: Any, key: str) -> int:
    digits = str(node.children[0])
    if len(digits) > 100:  # int() of thousands of digits is slow, and then an error
        line, column = _position(node)
        raise HclError(f"{shown(key)} is a huge number", line, column)
    return int(digits)


def _string(node: Any, key: str) -> str:
    from hcl2.utils import process_escape_sequences

    parts = []
    for part in node.children[1:-1]:
        token = part.children[0]
        kind = getattr(token, "type", "")
        if kind == "STRING_CHARS":
            parts.append(str(process_escape_sequences(str(token))))
        elif kind in ("ESCAPED_INTERPOLATION", "ESCAPED_DIRECTIVE"):
            parts.append(str(token)[1:])
        else:
            raise _refuse(node, key)
    return "".join(parts)


def _object(node: Any, key: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for element in node.children:
        if getattr(element, "data", "") != "object_elem":
            continue
        name = _object_key(element.children[0].children[0], key)
        if name in found:
            line, column = _position(element)
            raise HclError(f"{shown(name)} is given twice", line, column)
        found[name] = _value(element.children[-1], name)
    return found


def _object_key(node: Any, key: str) -> str:
    inner = node.children[0] if node.data == "expr_term" and len(node.children) == 1 else node
    kind = getattr(inner, "data", "")
    if kind in ("identifier", "keyword", "literal_value"):
        return str(inner.children[0])
    if kind == "string":
        return _string(inner, key)
    raise _refuse(node, key)


def _heredoc(node: Any, key: str, *, trim: bool) -> str:
    body = str(node.children[0]).splitlines()[1:-1]
    if any("${" in line or "%{" in line for line in body):
        raise _refuse(node, key)
    if trim:
        filled = [line for line in body if line.strip()]
        indent = min((len(line) - len(line.lstrip()) for line in filled), default=0)
        body = [line[indent:] for line in body]
    return "".join(f"{line}\n" for line in body)
