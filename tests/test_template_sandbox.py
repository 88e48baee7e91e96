"""Hostile templates end in a clear error, within their bounds; plain Jinja2 shows that each kind is dangerous."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import jinja2
import pytest

from orchestra.errors import AgentError
from orchestra.prompts.composer import check_template, render_template

SECRET = "c4nary"  # noqa: S105 - planted
DATA: dict[str, Any] = {"s": "text", "xs": [1, 2, 3], "d": {"a": {"b": 1}}, "big": "a b " * 250_000}


class Thing:
    """What would be reachable if an object of Python's got into the variables."""

    secret = SECRET

    def leak(self) -> str:
        return SECRET

    def __str__(self) -> str:
        return SECRET


# Reaching attributes, functions, files: refused when checked, or an error when rendered.
ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ s['__class__']['__mro__'] }}",
    "{{ s|attr('__class__') }}",
    "{{ xs|map(attribute='__class__')|list }}",
    "{{ xs|map(attribute='__class__.__name__')|list }}",
    "{{ xs|sort(attribute='__class__.__name__') }}",
    "{{ xs|sum(attribute='real') }}",
    "{{ xs|map('attr', '__class__')|list }}",
    "{{ xs|selectattr('__class__')|list|first|string ~ d.nope }}",
    "{{ '{0.__class__}'.format(s) }}",
    "{{ '{x.__class__}'.format_map({'x': s}) }}",
    "{{ '%s' % s }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ s|format(1) }}",
    "{{ s.upper }}",
    "{{ d.items.__self__ }}",
    "{{ self }}",
    "{{ self._TemplateReference__context }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ joiner() }}",
    "{{ namespace(a=1) }}",
    "{{ dict(a=1) }}",
    "{{ range.__class__ }}",
    "{{ loop }}",
    "{% for x in xs %}{{ loop.__class__ }}{% endfor %}",
    "{% for x in xs %}{{ loop._iterable }}{% endfor %}",
    "{% for x in xs %}{{ loop }}{% endfor %}",
    "{% for x in xs recursive %}{{ loop(xs) }}{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% from 'os' import path %}",
    "{% extends 'base' %}",
    "{% block a %}{% endblock %}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% call(x) f() %}{% endcall %}",
    "{% set ns.x = 1 %}",
    "{% autoescape true %}{% endautoescape %}",
    "{{ xs.append(4) }}",
    "{{ d.update({'a': 1}) }}",
    "{{ thing }}",
    "{{ thing.secret }}",
    "{{ thing.leak() }}",
    "{{ [thing] }}",
    "{{ thing|string }}",
    "{{ thing|tojson }}",
    "{{ xs|join(thing) }}",
    "{{ xs|map(' method', 'leak')|list }}",
    "{{ _x }}",
    "{{ range(*xs) }}",
]

DOUBLING = "{% set a = [1] %}" + "{% set a = [a, a] %}" * 40
TENFOLD = "{% set a = 'aaaaaaaaaa' %}" + "{% set a = a ~ a ~ a ~ a ~ a ~ a ~ a ~ a ~ a ~ a %}" * 9

# Wanting too much time or memory.
FLOODS = [
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{{ i * j }}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if j < 0 %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% set x = range(99999) %}{% endfor %}",
    "{% for i in range(99999) %}{{ big }}{% endfor %}",
    "{% for i in range(99999) %}{{ big|length ~ big[1:]|length }}{% endfor %}",
    "{% for i in range(99999) %}{% if 'zz' in big %}{% endif %}{% endfor %}",
    "{% for i in range(99999) %}{% if big == big ~ '' %}{% endif %}{% endfor %}",
    "{% for x in big %}{% for y in big %}{% endfor %}{% endfor %}",
    "{% set b %}{% for i in range(99999) %}" + "x" * 50_000 + "{% endfor %}{% endset %}{{ b|length }}",
    "{% filter upper %}{% for i in range(99999) %}{{ big }}{% endfor %}{% endfilter %}",
    "{{ 'a' * 10**9 }}",
    "{{ [1] * 10**9 }}",
    "{{ 10**(10**8) }}",
    "{{ 2**2000 * 2**2000 }}",
    "{{ 7|round(-1000000000) }}",
    "{% set x = 7 %}" + "{% set x = x * x %}" * 40 + "{{ x }}",
    "{{ 'a'|center(10**9) }}",
    "{{ 'a'.center(10**9) }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ 'a'.zfill(10**9) }}",
    "{{ '\t'.expandtabs(10**9) }}",
    "{{ xs|batch(10**9, 'x')|list }}",
    "{{ xs|slice(10**9)|list }}",
    "{{ big|replace('', big) }}",
    "{{ big.replace('a', big) }}",
    "{{ big|list|join(big) }}",
    "{{ big|indent(10**9) }}",
    "{{ big.strip(big) }}",
    "{{ big|wordwrap(1) }}",
    "{{ big|urlize }}",
    "{{ xs|tojson(indent=10**9) }}",
    "{{ range(10**9)|list }}",
    "{{ range(10**30) }}",
    "{{ range(0, 0 - 10**12, -1)|sum }}",
    TENFOLD + "{{ a|length }}",
    TENFOLD.replace(" ~ ", " + ") + "{{ a|length }}",
    "{% set a %}aaaaaaaaaa{% endset %}" + "{% set a %}{{ a }}{{ a }}{{ a }}{{ a }}{{ a }}{% endset %}" * 12 + "{{ a }}",
    DOUBLING + "{{ a }}",
    DOUBLING + "{{ a|string|length }}",
    DOUBLING + "{{ a|tojson }}",
    DOUBLING + "{{ a == a }}",
    DOUBLING + "{{ [a, a]|sort }}",
    DOUBLING + "{{ [a, a]|unique }}",
    DOUBLING + "{{ a in [a] }}",
    DOUBLING + "{{ a is eq(a) }}",
    DOUBLING + "{{ a|join }}",
    "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "{{ 1" + "+1" * 20_000 + " }}",
    "{{ " + "-" * 20_000 + "1 }}",
    "{{ a" + "|upper" * 20_000 + " }}",
    "{% if s %}" * 5_000 + "{% endif %}" * 5_000,
    "{% for x in xs %}" * 30 + "x" + "{% endfor %}" * 30,
    "{{ " + "9" * 10_000 + " }}",
    "{{ s }}" * 20_000,
    "{% if s %}x{% endif %}" * 9_000,
    "{% for loop in xs %}{% endfor %}",
    "x" * 300_000,
]

CHILD = """
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
from orchestra.errors import AgentError
from orchestra.prompts.composer import check_template, render_template
check_template("{{ a }}", [])
data, templates = json.load(sys.stdin)
for template in templates:
    start = time.process_time()
    try:
        result = "rendered: " + render_template(template, data, where="task")[:50]
    except AgentError as error:
        result = f"{error.code}: {error.message[:200]}"
    checked = [problem.code for problem in check_template(template, data)]
    # Not ru_maxrss: a child inherits its parent's peak, and the test's process may be large.
    memory = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(json.dumps([result, checked, time.process_time() - start, memory]))
"""


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_reaches_nothing_but_data(template: str) -> None:
    with pytest.raises(AgentError) as caught:
        render_template(template, {**DATA, "thing": Thing()}, where="the task t")
    assert caught.value.code in {"template-failed", "undefined-variable"}
    assert SECRET not in caught.value.message
    assert caught.value.message.startswith("the task t")
    assert "Traceback" not in caught.value.message


def test_floods_end_in_an_error_within_two_seconds_and_a_small_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps([DATA, FLOODS]),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(FLOODS)
    wrong = [
        (template[:80], *result)
        for template, result in zip(FLOODS, results, strict=True)
        if not result[0].startswith(("template-failed: task", "undefined-variable: task")) or result[2] > 2
    ]
    assert wrong == []
    assert max(memory for *_, memory in results) < 200_000  # kB


def test_after_all_40_payloads_of_each_kind_are_there() -> None:
    assert len(ESCAPES) >= 40
    assert len(FLOODS) >= 40


@pytest.mark.parametrize(
    "template",
    [
        "{{ thing.secret }}",
        "{{ thing.leak() }}",
        "{{ thing|attr('secret') }}",
        "{{ [thing]|map(attribute='secret')|first }}",
        "{{ '{0.secret}'.format(thing) }}",
        "{{ thing }}",
        "{{ thing.__class__.__dict__ }}",
        "{{ lipsum.__globals__.__name__ and thing.secret }}",
    ],
)
def test_negative_control_plain_jinja_leaks(template: str) -> None:
    plain = jinja2.Environment(autoescape=False)  # noqa: S701 - the point of the control
    assert SECRET in plain.from_string(template).render(thing=Thing())


PLAIN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
import jinja2
jinja2.Environment().from_string(sys.stdin.read()).render(xs=[1, 2, 3], big="a b " * 250_000)
"""


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ 'a' * 10**9 }}",
        "{{ 10**(10**8) }}",
        "{{ 'a'|center(10**9) }}",
        "{{ big|replace('', big) }}",
        TENFOLD + "{{ a|length }}",
        DOUBLING + "{{ a }}",
    ],
)
def test_negative_control_plain_jinja_hangs_or_runs_out_of_memory(template: str) -> None:
    done = subprocess.run([sys.executable, "-c", PLAIN], input=template, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.returncode < 0 or "MemoryError" in done.stderr or "exceed" in done.stderr, done.stderr[-500:]


def test_a_large_honest_template_has_room() -> None:
    findings = [{"file": f"src/{n}.py", "line": n, "why": "x" * 200} for n in range(2_000)]
    template = (
        "{% for f in findings %}{{ loop.index }}. {{ f.file }}:{{ f.line }} {{ f.why|truncate(80) }}\n{% endfor %}"
    )
    start = time.process_time()
    text = render_template(template, {"findings": findings}, where="task")
    assert text.count("\n") == 2_000
    assert len(render_template("{{ diff }}", {"diff": "x" * 3_000_000}, where="task")) == 3_000_000
    assert time.process_time() - start < 2


def test_refusals_tell_what_is_there_instead() -> None:
    problems = {
        problem.code: problem
        for problem in check_template("{{ a|uper }}{{ a.fooo() }}{% if a is strin %}{% endif %}", ["a"])
    }
    assert problems["unknown-filter"].hint == "did you mean 'upper'?"
    assert problems["unknown-test"].hint == "did you mean 'string'?"
    assert "cannot call fooo()" in problems["template-forbidden"].message
    [include] = check_template("a\n{% include 'x' %}", [])
    assert include.message == "a task's template cannot use {% include %}"
