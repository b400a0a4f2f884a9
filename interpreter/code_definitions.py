"""Definitions in source code: functions, classes, types and variables, found by tree-sitter's grammars.

A table per language says which node is what; the rest is one walk. The grammars are an optional part (`code`) and each
is loaded with the first file of its language.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

MOST_BYTES = 4 << 20
# What `*fn` and `fn??` mean, by keyword.
KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "fn": ("function", "method"), "var": ("variable", "constant"), "class": ("class",), "interface": ("interface",),
    "type": ("type-alias",), "enum": ("enum",), "struct": ("struct",), "trait": ("trait",), "module": ("module",),
})  # fmt: skip


class GrammarMissing(Exception):
    """The grammar of a language is not installed."""


class UnknownLanguage(Exception):
    """No grammar reads files with this ending."""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """One definition. `code` is its whole text with decorators and `export`; `used` is that without its own name, comments
    and literal text, for the question what it uses.
    """

    name: str
    kind: str  # function, method, constructor, class, interface, type-alias, enum, struct, trait, module, variable, constant …
    start: int  # offsets in bytes
    end: int
    line: int
    code: str
    used: str = field(repr=False)
    nested: bool  # inside another definition that is no module

    def contains(self, other: Definition) -> bool:
        return (
            self.start <= other.start and other.end <= self.end and (self.start, self.end) != (other.start, other.end)
        )


@dataclass(frozen=True, kw_only=True)
class Language:
    """How a grammar names things. A node of `kinds` is a definition; of `holders`, something that only holds some."""

    package: str
    function: str = "language"
    kinds: Mapping[str, str]
    holders: frozenset[str] = frozenset()  # looked into: bodies, namespaces, `export`
    wrappers: frozenset[str] = frozenset()  # belong to the one definition in them: `export`, decorators, templates
    several: Mapping[str, str] = field(default_factory=dict)  # statements with one name or more: kind of each
    members: Mapping[str, str] = field(default_factory=dict)  # what a kind is called inside a class


_CLASS_MEMBERS = {"function": "method"}
_JS = Language(
    package="tree_sitter_javascript",
    kinds={
        "function_declaration": "function", "generator_function_declaration": "function", "class_declaration": "class",
        "method_definition": "method", "function_signature": "function", "abstract_class_declaration": "class",
        "interface_declaration": "interface", "type_alias_declaration": "type-alias", "enum_declaration": "enum",
        "internal_module": "module", "module": "module", "abstract_method_signature": "method",
    },
    holders=frozenset({"program", "class_body", "statement_block", "expression_statement"}),
    wrappers=frozenset({"export_statement", "ambient_declaration"}),
    several={"lexical_declaration": "variable", "variable_declaration": "variable"},
)  # fmt: skip
_C = Language(
    package="tree_sitter_c",
    kinds={
        "function_definition": "function", "struct_specifier": "struct", "union_specifier": "struct", "enum_specifier": "enum",
        "class_specifier": "class", "namespace_definition": "module", "alias_declaration": "type-alias", "preproc_def": "constant",
        "concept_definition": "trait",
    },
    holders=frozenset({
        "translation_unit", "declaration_list", "field_declaration_list", "linkage_specification", "preproc_ifdef", "preproc_if",
        "preproc_else",
    }),
    wrappers=frozenset({"template_declaration"}),
    several={"declaration": "variable", "field_declaration": "variable", "type_definition": "type-alias"},
    members=_CLASS_MEMBERS,
)  # fmt: skip


def _like(base: Language, package: str, function: str = "language") -> Language:
    return replace(base, package=package, function=function)


_LANGUAGES: Mapping[str, Language] = {
    "js": _JS,
    "ts": _like(_JS, "tree_sitter_typescript", "language_typescript"),
    "tsx": _like(_JS, "tree_sitter_typescript", "language_tsx"),
    "c": _C,
    "cpp": _like(_C, "tree_sitter_cpp"),
    "py": Language(
        package="tree_sitter_python",
        kinds={"function_definition": "function", "class_definition": "class", "type_alias_statement": "type-alias"},
        holders=frozenset({"module", "block", "if_statement", "try_statement", "else_clause", "expression_statement"}),
        wrappers=frozenset({"decorated_definition"}),
        several={"assignment": "variable"},
        members=_CLASS_MEMBERS,
    ),
    "rb": Language(
        package="tree_sitter_ruby",
        kinds={"method": "function", "singleton_method": "method", "class": "class", "module": "module"},
        holders=frozenset({"program", "body_statement"}),
        several={"assignment": "variable"},
        members=_CLASS_MEMBERS,
    ),
    "go": Language(
        package="tree_sitter_go",
        kinds={"function_declaration": "function", "method_declaration": "method"},
        holders=frozenset({"source_file"}),
        several={"type_declaration": "type-alias", "const_declaration": "constant", "var_declaration": "variable"},
    ),
    "rs": Language(
        package="tree_sitter_rust",
        kinds={
            "function_item": "function", "function_signature_item": "function", "struct_item": "struct", "union_item": "struct",
            "enum_item": "enum", "trait_item": "trait", "type_item": "type-alias", "const_item": "constant",
            "static_item": "variable", "mod_item": "module", "macro_definition": "macro",
        },
        holders=frozenset({"source_file", "declaration_list", "impl_item"}),
        members=_CLASS_MEMBERS,
    ),
    "java": Language(
        package="tree_sitter_java",
        kinds={
            "class_declaration": "class", "record_declaration": "class", "interface_declaration": "interface",
            "annotation_type_declaration": "interface", "enum_declaration": "enum", "method_declaration": "method",
            "constructor_declaration": "constructor",
        },
        holders=frozenset({"program", "class_body", "interface_body", "enum_body", "enum_body_declarations"}),
        several={"field_declaration": "variable", "constant_declaration": "constant"},
    ),
    "cs": Language(
        package="tree_sitter_c_sharp",
        kinds={
            "class_declaration": "class", "record_declaration": "class", "struct_declaration": "struct",
            "interface_declaration": "interface", "enum_declaration": "enum", "delegate_declaration": "type-alias",
            "method_declaration": "method", "constructor_declaration": "constructor", "property_declaration": "variable",
            "namespace_declaration": "module", "local_function_statement": "function",
        },
        holders=frozenset({"compilation_unit", "declaration_list", "file_scoped_namespace_declaration", "global_statement"}),
        several={"field_declaration": "variable"},
    ),
    "sol": Language(
        package="tree_sitter_solidity",
        kinds={
            "contract_declaration": "class", "library_declaration": "class", "interface_declaration": "interface",
            "function_definition": "function", "constructor_definition": "constructor", "modifier_definition": "modifier",
            "event_definition": "event", "error_declaration": "error", "struct_declaration": "struct", "enum_declaration": "enum",
            "state_variable_declaration": "variable", "constant_variable_declaration": "constant",
            "user_defined_type_definition": "type-alias",
        },
        holders=frozenset({"source_file", "contract_body"}),
        members=_CLASS_MEMBERS,
    ),
}  # fmt: skip
SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys(("js", "jsx", "mjs", "cjs"), "js"), **dict.fromkeys(("ts", "mts", "cts"), "ts"), "tsx": "tsx",
    **dict.fromkeys(("py", "pyi"), "py"), "rb": "rb", "go": "go", "rs": "rs", "java": "java", "cs": "cs", "sol": "sol", "c": "c",
    **dict.fromkeys(("h", "hpp", "hh", "hxx", "cpp", "cc", "cxx"), "cpp"),
}  # fmt: skip
_CLASSES = frozenset({"class", "interface", "struct", "trait", "enum"})
_SCRIPTS = ("tree_sitter_javascript", "tree_sitter_typescript")
_NAMES = frozenset({
    "identifier", "type_identifier", "field_identifier", "property_identifier", "constant", "qualified_identifier",
    "destructor_name", "operator_name", "private_property_identifier",
})  # fmt: skip
_PARTS = frozenset({"variable_declarator", "init_declarator", "type_spec", "type_alias", "const_spec", "var_spec"})
_SILENT = re.compile(r"comment|string_(content|fragment|literal)|^string$|heredoc_(body|content)|char(acter)?_literal")
_C_FAMILY = (_LANGUAGES["c"], _LANGUAGES["cpp"])
_parsers: dict[str, Parser] = {}


def definitions(text: str, suffix: str) -> list[Definition]:
    """Every definition of a source file, in order. Errors: `UnknownLanguage`, `GrammarMissing`, `ValueError` (too large)."""
    name = SUFFIXES.get(suffix.lower().lstrip("."))
    if name is None:
        raise UnknownLanguage(suffix)
    source = text.encode()
    if len(source) > MOST_BYTES:
        raise ValueError(f"source of more than {MOST_BYTES >> 20} MiB is not searched")
    language = _LANGUAGES[name]
    return list(_Reader(source, language).found(_parser(name).parse(source).root_node, None, None))


def _parser(name: str) -> Parser:
    if name not in _parsers:
        language = _LANGUAGES[name]
        try:
            import tree_sitter

            grammar = getattr(import_module(language.package), language.function)()
        except ImportError as error:
            raise GrammarMissing(language.package.replace("_", "-")) from error
        with warnings.catch_warnings():
            # Some grammars hand out an address, as all once did; the library takes it and complains.
            warnings.simplefilter("ignore", DeprecationWarning)
            _parsers[name] = tree_sitter.Parser(tree_sitter.Language(grammar))
    return _parsers[name]


class _Reader:
    """One walk over one file."""

    def __init__(self, source: bytes, language: Language) -> None:
        self.source, self.language = source, language

    def found(self, node: Node, wrapper: Node | None, around: str | None) -> Iterator[Definition]:
        """What stands in a node that holds definitions. `wrapper` is what belongs to the one that follows; `around` the kind
        of the definition that it all stands in.
        """
        language = self.language
        for child in node.named_children:
            whole = wrapper or child
            if child.type in language.wrappers:
                yield from self.found(child, whole, around)
            elif child.type in language.kinds:
                yield from self._one(child, whole, around)
            elif child.type in language.several:
                yield from self._several(child, whole, around)
            elif child.type in language.holders:
                inner = "class" if child.type == "impl_item" else around
                yield from self.found(child, wrapper, inner)

    def _one(self, node: Node, whole: Node, around: str | None) -> Iterator[Definition]:
        name = _name(node)
        kind = self.language.kinds[node.type]
        if node.type == "method_definition" and any(child.type in ("get", "set") for child in node.children):
            return  # an accessor is no function that is called
        if (
            kind in ("struct", "enum", "class")
            and node.type.endswith("_specifier")
            and not node.child_by_field_name("body")
        ):
            return  # `struct node *next`: a mention
        if name is None:
            if kind == "constructor":
                yield self._definition("constructor", kind, whole, None, around)
            return
        said = _text(name)
        if around in _CLASSES or name.type == "qualified_identifier":
            kind = self.language.members.get(kind, kind)
        if kind == "method" and said == "constructor":
            kind = "constructor"
        yield self._definition(said, kind, whole, name, around)
        if kind not in ("function", "method", "constructor", "modifier", "macro"):
            yield from self.found(node, None, kind)

    def _several(self, node: Node, whole: Node, around: str | None) -> Iterator[Definition]:
        kind = self.language.several[node.type]
        parts = list(_declared(node))
        for name, part in parts:
            own = kind
            if kind == "type-alias" and part.type == "type_spec":
                shape = part.child_by_field_name("type")
                own = {"struct_type": "struct", "interface_type": "interface"}.get(shape.type if shape else "", kind)
            elif _is_prototype(part):
                own = "method" if around in _CLASSES else "function"
            elif node.type == "field_declaration" and self.language in _C_FAMILY:
                continue  # a member of a struct is part of the struct
            elif kind == "variable" and name.type == "constant":
                own = "constant"
            elif (
                kind == "variable"
                and around in _CLASSES
                and self.language.package in ("tree_sitter_python", "tree_sitter_ruby")
            ):
                continue  # an attribute of a class is no variable of the file
            alone = len(parts) == 1 or self.language.package in _SCRIPTS  # `const a = 1, b = 2` defines each of them
            yield self._definition(_text(name), own, whole if alone else part, name, around)
        yield from self.found(node, None, around)  # `typedef struct point { … } Point;` defines both

    def _definition(self, name: str, kind: str, whole: Node, own: Node | None, around: str | None) -> Definition:
        return Definition(
            name=name, kind=kind, start=whole.start_byte, end=whole.end_byte, line=whole.start_point[0] + 1,
            code=self._indent(whole) + _text(whole), used=self._used(whole, own), nested=around is not None and around != "module",
        )  # fmt: skip

    def _indent(self, node: Node) -> str:
        """What stands before a member on its line, so that its lines stand below each other."""
        if self.language.package in _SCRIPTS:
            return ""
        line = self.source[self.source.rfind(b"\n", 0, node.start_byte) + 1 : node.start_byte]
        return line.decode() if not line.strip() else ""

    def _used(self, whole: Node, own: Node | None) -> str:
        source = bytearray(self.source[whole.start_byte : whole.end_byte])
        waiting = [whole]
        while waiting:
            node = waiting.pop()
            silent = _SILENT.search(node.type) is not None and not node.named_child_count
            if silent or (own is not None and node.start_byte == own.start_byte and node.end_byte == own.end_byte):
                start, end = node.start_byte - whole.start_byte, node.end_byte - whole.start_byte
                source[start:end] = b" " * (end - start)
            else:
                waiting.extend(node.children)
        return source.decode(errors="replace")


def _text(node: Node) -> str:
    return (node.text or b"").decode(errors="replace")


def _name(node: Node) -> Node | None:
    """The node that names a definition; C hides it below its declarators."""
    found: Node | None = node.child_by_field_name("name")
    while found is None or found.type not in _NAMES:
        inner = (found or node).child_by_field_name("declarator")
        if inner is None:
            return found
        found, node = inner, inner
    return found


def _is_prototype(part: Node) -> bool:
    """`int f(void)`, `char *f(void)`: a declarator that declares a function."""
    found: Node | None = part
    while found is not None and found.type in ("pointer_declarator", "reference_declarator"):
        found = found.child_by_field_name("declarator")
    return found is not None and found.type == "function_declarator"


def _declared(node: Node) -> Iterator[tuple[Node, Node]]:
    """The names that a statement declares, each with the part of it that is its own."""
    left = node.child_by_field_name("left")
    if left is not None:  # an assignment
        value = node.child_by_field_name("right")
        if value is not None and left.type in _NAMES:
            yield left, node
        return
    for part in node.named_children:
        if part.type in ("var_spec_list", "variable_declaration"):
            yield from _declared(part)
        elif part.type in _PARTS:
            own = _name(part)
            for name in part.children_by_field_name("name") or ([] if own is None else [own]):
                if name.type in _NAMES:
                    yield name, part
        elif part in node.children_by_field_name("declarator"):
            own = part if part.type in _NAMES else _name(part)
            if own is not None:
                yield own, part
