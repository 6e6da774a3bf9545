"""What chapters show: a function's own source, and tables."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pandas as pd
import pytest

from reft_lib import kl, notebook, pages, ppo, value
from reft_lib.errors import UserError
from reft_lib.notebook import source, table


def test_source_is_the_file_s_own_text():
    shown = source(kl.kl_rewards)
    assert shown.text in Path(kl.__file__).read_text(encoding="utf-8")
    assert shown.name == "reft_lib.kl.kl_rewards"
    markdown = shown._repr_markdown_()
    assert markdown.startswith("`reft_lib.kl.kl_rewards`\n\n```python\ndef kl_rewards(")
    assert markdown.endswith("\n```") and str(Path(kl.__file__).parent) not in markdown


def test_a_method_is_dedented_and_a_decorator_shown():
    assert source(value.ValueHead.forward).text.startswith("def forward(self, hidden")
    assert source(ppo.gather).text.startswith("@torch.no_grad()\ndef gather(")
    assert source(value.ValueHead.forward).name == "reft_lib.value.ValueHead.forward"


@pytest.mark.parametrize("fn", [kl.kl_rewards, ppo.ppo, ppo.Experience, notebook.table, pages.Html])
def test_without_docstring_the_code_is_the_same(fn):
    bare = source(fn, docstring=False).text
    whole = ast.parse(source(fn).text)
    for node in ast.walk(whole):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            del node.body[0]
    assert ast.dump(ast.parse(bare)) == ast.dump(whole)
    lines = bare.split("\n")
    opening = next(i for i, line in enumerate(lines) if line.endswith(":"))
    assert lines[opening + 1].strip(), "the body begins with an empty line"


def test_a_function_that_is_only_a_docstring_keeps_it():
    assert '"""' in source(UserError, docstring=False).text


def test_source_of_something_without_source_is_one_clear_line():
    with pytest.raises(UserError, match="^source: .* has no Python source; give a function"):
        source(3)
    with pytest.raises(UserError, match="has no Python source"):
        source(len)


def test_marks_stand_at_the_end_of_their_lines():
    shown = notebook.marked(kl.k1, {"return logp": "7"})
    assert "    return logp - ref  # (7)" in shown.text.split("\n")
    assert '"""' not in shown.text


@pytest.mark.parametrize("part", ["not there", "logp"])
def test_a_mark_that_does_not_fit_one_line_is_an_error(part):
    with pytest.raises(UserError, match="lines of reft_lib.kl.k1; wanted 1"):
        notebook.marked(kl.k1, {part: "1"})


FRAME = pd.DataFrame(
    {
        "method": ["SFT", "ReFT <1>"],
        "top-1": [61.25, -0.04],
        "seeds": [5, 5],
        "minutes": [float("nan"), 2.0],
    }
)


def parts(shown):
    return ElementTree.fromstring(shown.html.replace("&lt;", "(").replace("&gt;", ")"))


def test_table_has_caption_scopes_and_one_decimal():
    tree = parts(table(FRAME, "Accuracy in percent"))
    assert tree.find("table/caption").text == "Accuracy in percent"
    heads = tree.findall("table/thead/tr/th")
    assert [h.text for h in heads] == ["method", "top-1", "seeds", "minutes"]
    assert {h.get("scope") for h in heads} == {"col"}
    rows = [[cell.text for cell in row] for row in tree.findall("table/tbody/tr")]
    assert rows == [["SFT", "61.2", "5", "–"], ["ReFT (1)", "−0.0", "5", "2.0"]]
    assert {row[0].tag for row in tree.findall("table/tbody/tr")} == {"th"}
    assert {row[0].get("scope") for row in tree.findall("table/tbody/tr")} == {"row"}


def test_columns_of_figures_stand_on_the_right():
    frame = FRAME.assign(text=["1.5 ± 0.2", "−2.0 ± 0.1"])
    heads = parts(table(frame, "x")).findall("table/thead/tr/th")
    assert ["right" in h.get("style") for h in heads] == [False, True, True, True, True]


def test_a_chain_of_thought_stands_on_the_left_although_it_begins_with_a_digit():
    frame = FRAME.assign(said=["12 + 5 = 17 left.", "3 * 4 = 12 in the bags."], share=["2%", "7%"])
    heads = parts(table(frame, "x")).findall("table/thead/tr/th")
    assert ["right" in h.get("style") for h in heads[-2:]] == [False, True]


def test_a_named_index_names_the_rows_and_a_plain_one_is_not_shown():
    named = parts(table(FRAME.set_index("method"), "x"))
    assert [h.text for h in named.findall("table/thead/tr/th")][0] == "method"
    plain = parts(table(FRAME[::-1], "x"))
    assert [h.text for h in plain.findall("table/thead/tr/th")][0] == "method"


def test_table_is_the_same_each_time_and_readable_as_text():
    first, second = table(FRAME, "Caption"), table(FRAME.copy(), "Caption")
    assert first.html == second.html
    assert repr(first).split("\n")[:2] == ["Caption", "method    top-1  seeds  minutes"]


def test_text_in_cells_cannot_become_markup():
    assert "ReFT &lt;1&gt;" in table(FRAME, 'a "quoted" <caption>').html
    assert "<caption>a &quot;quoted&quot; &lt;caption&gt;</caption>" in table(
        FRAME, 'a "quoted" <caption>'
    ).html  # fmt: skip
