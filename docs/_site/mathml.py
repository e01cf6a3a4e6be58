"""Formulas as MathML, by docutils: no script runs in the page, nothing is fetched."""

import re

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.errors import ExtensionError

# What docutils doesn't know. Brackets grow with their content in MathML by themselves.
SAME = (
    (r"\\[bB]ig+[lrm]?(?![a-zA-Z])", ""),
    (r"\\textstyle(?![a-zA-Z])", ""),
    (r"\\dots(?![a-zA-Z])", r"\\ldots"),
    (r"\\tfrac(?![a-zA-Z])", r"\\frac"),
)


def to_mathml(formula, block=False):
    r"""A formula of LaTeX's as MathML; several lines are aligned at `&`, as in LaTeX."""
    formula = " ".join(formula.split())
    for pattern, replacement in SAME:
        formula = re.sub(pattern, replacement, formula)
    if block and r"\\" in re.sub(r"\\begin\{cases\}.*?\\end\{cases\}", "", formula):
        formula = rf"\begin{{aligned}}{formula}\end{{aligned}}"
    try:
        return str(latex2mathml.tex2mathml(formula, as_block=block))
    except (MathError, AttributeError) as error:
        raise ExtensionError(f"no MathML for {formula!r}: {error}") from error


def visit_inline(self, node):
    self.body.append(to_mathml(node.astext()))
    raise nodes.SkipNode


def visit_block(self, node):
    self.body.append(
        f'<div class="formula">{to_mathml(node.astext(), block=True)}</div>'
    )
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
