"""The mutants of a file: cosmic-ray's, and one operator of ours."""

import re
from collections import Counter

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator, operator_names

# Of a binary operator's many replacements one: most others end in a TypeError, which any test would see.
CHOSEN = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_FloorDiv|Pow_Mul|BitAnd_BitOr)"
    r"|ReplaceComparisonOperator_(Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is)"
    r"|ReplaceUnaryOperator_(USub_UAdd|Delete_Not|Delete_Invert)|Replace(True|False|And|Or|Break|Continue)With\w+"
    r"|AddNot|NumberReplacer|RemoveDecorator|ZeroIterationForLoop)"
)


class ArgumentDropper(Operator):
    """Leaves out a keyword argument of a call, or makes a positional one None."""

    def mutation_positions(self, node):
        yield from ((argument.start_pos, argument.end_pos) for argument in self._arguments(node))

    def mutate(self, node, index):
        argument = self._arguments(node)[index]
        siblings = argument.parent.children
        place = siblings.index(argument)
        if argument.type == "argument":
            del siblings[place : place + (2 if argument.parent.type == "arglist" else 1)]
        else:
            siblings[place] = parso.python.tree.Name("None", argument.start_pos, argument.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls):
        return (Example("f(x, y=1)", "f(None, y=1)"), Example("f(x, y=1)", "f(x,)", occurrence=1))

    @staticmethod
    def _arguments(node) -> list:
        if node.type != "trailer" or node.children[0].value != "(":
            return []
        inside = node.children[1:-1]
        inside = inside[0].children if inside and inside[0].type == "arglist" else inside
        stars = [a for a in inside if a.type == "argument" and a.children[1:2] != ["="]]  # or x for x in y
        return [a for a in inside if a.type != "operator" and a not in stars]


def places(source: str) -> list[tuple]:
    """(function, line, operator, occurrence on such lines, occurrence in the file) of each mutant of a file's text."""
    operators = {name: get_operator(name)() for name in operator_names() if CHOSEN.fullmatch(name)}
    operators["ArgumentDropper"] = ArgumentDropper()
    lines, seen, found = source.splitlines(), Counter(), []
    for node in ast_nodes(get_ast(source)):
        for name, operator in operators.items():
            for start, _ in operator.mutation_positions(node):
                number = start[0] - 1
                place = (function(lines, number), lines[number].strip(), name)
                found.append((*place, seen[place], seen[name]))
                seen.update([place, name])
    return found


def broken(source: str, operator: str, occurrence: int) -> dict[str, str]:
    """`where` (function), `old` and `new` (the changed lines), `code` (the whole text)."""
    make = ArgumentDropper if operator == "ArgumentDropper" else get_operator(operator)
    code = mutate_code(source, make(), occurrence)
    lines, old, new = source.splitlines(), source.splitlines(), code.splitlines()
    first = [a == b for a, b in zip(old, new, strict=False)].index(False)
    while len(old) > first and len(new) > first and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    changed = {"old": "\n".join(old[first:]).strip(), "new": "\n".join(new[first:]).strip()}
    return changed | {"where": function(lines, first), "code": code}


def function(lines: list[str], number: int) -> str:
    """Name of the function or class that line `number` is in."""
    heads = (re.match(r" *(?:def|class) (\w+)", line) for line in reversed(lines[: number + 1]))
    return next((head[1] for head in heads if head), "")
