"""MathQA's formulas (Amini et al. 2019, their operation language) as programs.

A ``linear_formula`` such as ``"add(n0,const_2)|divide(#0,n1)|"`` lists operations: n0, n1, ... are
the numbers of the problem in their order, ``const_2`` is 2, and #0, #1, ... are the results of
earlier operations. Each operation becomes one line of a program.
"""

from __future__ import annotations

import re

from reft_lib.derivation import assemble, needed

OPERATIONS: dict[str, tuple[str, str]] = {
    "add": ("total", "{0} + {1}"),
    "subtract": ("difference", "{0} - {1}"),
    "multiply": ("product", "{0} * {1}"),
    "divide": ("quotient", "{0} / {1}"),
    "power": ("power", "{0} ** {1}"),
    "sqrt": ("root", "{0} ** 0.5"),
    "inverse": ("inverse", "1 / {0}"),
    "negate": ("negative", "-{0}"),
    "floor": ("whole", "math.floor({0})"),
    "reminder": ("remainder", "{0} % {1}"),
    "factorial": ("factorial", "math.factorial({0})"),
    "choose": ("choices", "math.comb({0}, {1})"),
    "permutation": ("orders", "math.perm({0}, {1})"),
    "log": ("logarithm", "math.log({0})"),
    "gcd": ("divisor", "math.gcd({0}, {1})"),
    "lcm": ("multiple", "math.lcm({0}, {1})"),
    "max": ("larger", "max({0}, {1})"),
    "min": ("smaller", "min({0}, {1})"),
    "speed": ("speed", "{0} / {1}"),
    "stream_speed": ("stream_speed", "({0} - {1}) / 2"),
    "p_after_gain": ("price", "{1} * (1 + {0} / 100)"),
    "original_price_before_gain": ("price", "{1} * 100 / (100 + {0})"),
    "original_price_before_loss": ("price", "{1} * 100 / (100 - {0})"),
    "circle_area": ("area", "math.pi * {0} ** 2"),
    "circumface": ("circumference", "2 * math.pi * {0}"),
    "square_area": ("area", "{0} ** 2"),
    "square_perimeter": ("perimeter", "4 * {0}"),
    "square_edge_by_area": ("edge", "{0} ** 0.5"),
    "rectangle_area": ("area", "{0} * {1}"),
    "rectangle_perimeter": ("perimeter", "2 * ({0} + {1})"),
    "rhombus_area": ("area", "{0} * {1} / 2"),
    "rhombus_perimeter": ("perimeter", "4 * {0}"),
    "quadrilateral_area": ("area", "{0} * ({1} + {2}) / 2"),
    "triangle_area": ("area", "{0} * {1} / 2"),
    "triangle_perimeter": ("perimeter", "{0} + {1} + {2}"),
    "triangle_area_three_edges": (
        "area",
        "(({0} + {1} + {2}) * ({1} + {2} - {0}) * ({0} + {2} - {1})"
        " * ({0} + {1} - {2})) ** 0.5 / 4",
    ),
    "volume_cube": ("volume", "{0} ** 3"),
    "volume_rectangular_prism": ("volume", "{0} * {1} * {2}"),
    "volume_cylinder": ("volume", "math.pi * {0} ** 2 * {1}"),
    "volume_cone": ("volume", "math.pi * {0} ** 2 * {1} / 3"),
    "volume_sphere": ("volume", "4 / 3 * math.pi * {0} ** 3"),
    "surface_cube": ("surface", "6 * {0} ** 2"),
    "surface_sphere": ("surface", "4 * math.pi * {0} ** 2"),
    "surface_cylinder": ("surface", "2 * math.pi * {0} * ({0} + {1})"),
    "surface_rectangular_prism": ("surface", "2 * ({0} * {1} + {1} * {2} + {0} * {2})"),
    "cube_edge_by_volume": ("edge", "{0} ** (1 / 3)"),
}
"""MathQA's operations, those of its dev split: a name for the result, and what it is in Python."""

_STEP = re.compile(r"(\w+)\(([^()]*)\)")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")


def problem_numbers(problem: str) -> list[str | None]:
    """Return the numbers of a problem in their order, as Python writes them: n0, n1, ...

    The problems are cut into words by spaces, and so were the numbers: "21,36" is one word, and so
    one number; None stands for it, since nobody knows which.
    """
    found: list[str | None] = []
    for word in problem.split():
        if not re.fullmatch(r"-?[0-9,.]*[0-9][0-9,.]*%?", word):
            continue
        plain = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", word.strip("-%,").rstrip("."))
        number = plain if _NUMBER.fullmatch(plain) else None
        found.append(number and re.sub(r"^(?=\.)", "0", re.sub("^0+(?=[0-9])", "", number)))
    return found


def _argument(text: str, numbers: list[str | None]) -> str | None:
    """Return an argument of an operation as Python, None if it is not known."""
    kind, rest = text[:1], text[1:]
    if kind == "#" and rest.isdigit():
        return f"<{rest}>"
    if kind == "n" and rest.isdigit():
        return numbers[int(rest)] if int(rest) < len(numbers) else None
    if text == "const_pi":
        return "math.pi"
    constant = re.fullmatch(r"const_(\d+)(?:[._](\d+))?", text)  # const_0_2778 is 0.2778
    if constant is None:
        return None
    return f"{constant[1]}.{constant[2]}" if int(constant[2] or 0) else constant[1]


def formula_lines(formula: str, problem: str) -> list[tuple[str, str]] | None:
    """Return a linear formula as (name, expression), one for each operation.

    An expression refers to earlier lines as ``<0>``. None if something in the formula is not known.
    """
    numbers, lines = problem_numbers(problem), list[tuple[str, str]]()
    for text in filter(None, (part.strip() for part in formula.split("|"))):
        step = _STEP.fullmatch(text)
        if step is None or step[1] not in OPERATIONS:
            return None
        name, template = OPERATIONS[step[1]]
        found = [_argument(argument.strip(), numbers) for argument in step[2].split(",")]
        arguments = [argument for argument in found if argument is not None]
        late = any(a[0] == "<" and int(a[1:-1]) >= len(lines) for a in arguments)
        places = len(set(re.findall(r"\{\d", template)))
        if late or not len(arguments) == len(found) == places:
            return None
        lines.append((name, template.format(*arguments)))
    return lines or None


def formula_program(formula: str, problem: str) -> str | None:
    """Return the body of ``solution()`` that works a formula out, None if it cannot be read.

    Parameters
    ----------
    formula : str
        A ``linear_formula``.
    problem : str
        The question without its options.
    """
    lines = formula_lines(formula, problem)
    if lines is None:
        return None
    wanted = needed(lines)
    return assemble([line if i in wanted else None for i, line in enumerate(lines)])
