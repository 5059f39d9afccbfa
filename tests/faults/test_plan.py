"""Fault plans as data, in Python and as text."""

from __future__ import annotations

import inspect
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_elastic import faults
from pytest_elastic.errors import FaultPlanError
from pytest_elastic.faults import (
    Fault,
    FaultPlan,
    Trigger,
    delay,
    drop,
    exit,
    kill,
    kill_points,
    late_join,
    parse,
    resume,
    server_gone,
    stop,
)

# A busy machine is slow to draw.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
RANKS = st.integers(0, 40)
TEXTS = st.text("ab09_*?[]!/%+.-~@=,:#&'\" \t\né漢\U0001f600", min_size=1, max_size=12)
SPANS = st.integers(1, 10**9).map(lambda micros: micros / 1e6)


@st.composite
def triggers(draw, of=False, line=True, collective=True):
    where = draw(st.sampled_from(["op", "key", "barrier"] + ["line"] * line + ["collective"] * collective))
    at = {where: draw(st.integers(1, 999)) if where == "op" else draw(TEXTS)}
    if where != "op":
        at["nth"] = draw(st.integers(1, 99))
    if of:
        at["of"] = draw(RANKS)
    return at


@st.composite
def single_faults(draw):
    kind = draw(
        st.sampled_from(["kill", "exit", "stop", "resume", "delay", "drop", "late_join", "server_gone"])
    )
    rank = draw(RANKS)
    if kind == "exit":
        return exit(rank, draw(st.integers(0, 255)), **draw(triggers(of=draw(st.booleans()))))
    if kind == "stop":
        return stop(rank, draw(SPANS | st.none()), **draw(triggers(of=draw(st.booleans()))))
    if kind == "resume":
        at = draw(triggers(of=True))
        return resume(rank + 41, **at)
    if kind == "delay":
        return delay(rank, draw(SPANS), **draw(triggers(line=False)))
    if kind == "drop":
        return drop(rank, **draw(triggers(line=False, collective=False)))
    if kind == "late_join":
        return late_join(rank, draw(SPANS))
    if kind == "server_gone":
        return server_gone(**draw(triggers(of=draw(st.booleans()))))
    return kill(rank, **draw(triggers(of=draw(st.booleans()))))


PLANS = st.lists(single_faults(), max_size=4).map(
    lambda plans: FaultPlan(tuple(fault for plan in plans for fault in plan))
)


@patient
@given(PLANS)
def test_texts_are_parsed_to_the_same_plan(plan):
    """Printing and parsing is the identity, and the text needs no quoting."""
    text = str(plan)
    assert parse(text) == plan
    assert not set(text) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@:=,%_/+")


@patient
@given(PLANS)
def test_the_repr_of_a_plan_makes_it(plan):
    """What `repr` says is the Python that makes the plan."""
    assert eval(repr(plan), vars(faults)) == plan


@patient
@given(PLANS)
def test_plans_pickle_and_hash(plan):
    """A plan travels and is a key."""
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert len({plan, parse(str(plan))}) == 1


@patient
@given(st.text(alphabet="KXSRDPLG0123@:=,%abkl+sm", max_size=20))
def test_any_text_is_a_plan_or_one_error(text):
    """Nothing else is raised, and what is accepted prints as something that is accepted."""
    try:
        plan = parse(text)
    except FaultPlanError:
        return
    assert parse(str(plan)) == plan


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (kill(rank=1, op=4), "K1@4"),
        (exit(rank=3, code=7, op=5), "X3@5=7"),
        (stop(rank=2, barrier="epoch3", seconds=2.0), "S2@bepoch3=2s"),
        (kill(rank=1, collective="world#3"), "K1@cworld%233"),
        (delay(rank=1, collective="1[0,2]#0", nth=2, by=1), "D1@c1%5B0%2C2%5D%230,2=1s"),
        (stop(rank=2, op=3) | resume(rank=2, op=5, of=0), "S2@3+R2@0:5"),
        (delay(rank=0, key="a*", by=0.2), "D0@ka%2A=200ms"),
        (drop(rank=0, key="a", nth=2), "P0@ka,2"),
        (late_join(rank=1, by=0.0015), "L1=1500us"),
        (server_gone(op=6), "G@6"),
        (server_gone(line="step 3", of=1), "G@1:lstep%203"),
        (kill(rank=0, key="a-b.c~d"), "K0@ka%2Db%2Ec%7Ed"),
        (FaultPlan(), ""),
    ],
)
def test_each_plan_has_one_spelling(plan, text):
    """One spelling for each thing."""
    assert str(plan) == text
    assert parse(text) == plan


def test_the_victim_as_trigger_is_said_once():
    """`of` the victim itself is the same plan as none."""
    assert kill(rank=1, op=4, of=1) == kill(rank=1, op=4)


def test_plans_join_in_order():
    """`|` appends; a plan that is joined with itself has two faults."""
    one = kill(rank=1, op=4)
    assert [fault.kind for fault in one | drop(rank=0, op=1)] == ["kill", "drop"]
    assert len(one | one) == 2
    with pytest.raises(TypeError):
        one | "K1@4"


@pytest.mark.parametrize(
    ("make", "what", "allowed"),
    [
        (lambda: kill(rank=-1, op=4), "rank=-1", "a rank from 0"),
        (lambda: kill(rank=True, op=4), "rank=True", "a rank from 0"),
        (lambda: kill(rank=1, op=0), "op=0", "a number from 1"),
        (lambda: kill(rank=1, key="a", nth=0), "nth=0", "a number from 1"),
        (lambda: kill(rank=1), "kill()", "exactly one of op, key, barrier, collective, line"),
        (lambda: kill(rank=1, op=1, key="a"), "kill(op=1, key='a')", "exactly one of"),
        (lambda: kill(rank=1, op=1, nth=2), "kill(op=1, nth=2)", "nth (not with op)"),
        (lambda: kill(rank=1, step=4), "kill(step=4)", "exactly one of"),
        (lambda: kill(rank=1, key=""), "key=''", "a text that is not empty"),
        (lambda: kill(rank=1, key="\ud800"), "key='\\ud800'", "a text that is not empty"),
        (lambda: kill(rank=1, key=b"a"), "key=b'a'", "a text that is not empty"),
        (lambda: kill(rank=1, op=1, of="0"), "of='0'", "a rank from 0"),
        (lambda: exit(rank=1, code=256, op=1), "exit with code=256", "0 to 255"),
        (lambda: exit(rank=1, code=None, op=1), "exit with code=None", "0 to 255"),
        (lambda: stop(rank=1, op=1, seconds=0), "stop with seconds=0", "1e-06 to 1e+06 seconds"),
        (lambda: delay(rank=1, op=1, by=float("nan")), "delay with by=nan", "seconds"),
        (lambda: delay(rank=1, op=1, by=True), "delay with by=True", "seconds"),
        (
            lambda: delay(rank=1, line="x", by=1),
            "delay(rank=1, by=1, line='x')",
            "op, key, barrier or collective",
        ),
        (lambda: drop(rank=1, collective="x"), "drop(rank=1, collective='x')", "op, key or barrier"),
        (lambda: drop(rank=1, op=1, of=0), "drop(rank=1, op=1, of=0)", "of the rank itself"),
        (lambda: resume(rank=1, op=1), "resume without of", "does nothing that could be a trigger"),
        (lambda: resume(rank=1, op=1, of=1), "resume without of", "does nothing that could be a trigger"),
        (lambda: Fault("kill", 1, Trigger("op"), seconds=1.0), "kill with seconds", "stop only"),
        (lambda: Fault("kill", 1, Trigger("op"), code=1), "kill with code=1", "exit only"),
        (lambda: Fault("kill", None, Trigger("op")), "rank=None", "a rank from 0"),
        (lambda: Fault("boom", 1, Trigger("op")), "a fault 'boom'", "kill, exit"),
        (lambda: Fault("server_gone", 1, Trigger("op")), "server_gone of rank 1", "of= to say"),
        (lambda: Trigger("time"), "a trigger at 'time'", "op, key, barrier, collective, line"),
        (lambda: parse("K1@4+K1@x"), "no fault", "K1@4"),
        (lambda: parse("K1@4+"), "no fault", "K1@4"),
        (lambda: parse("Q1@4"), "the letter Q", "K kill"),
        (lambda: parse("K@4"), "rank=None", "a rank from 0"),
        (lambda: parse("K1"), "no trigger", "one after @"),
        (lambda: parse("L1@4=1s"), "a trigger", "none for L"),
        (lambda: parse("D1@4=200"), "the value 200", "with s, ms or us"),
        (lambda: parse("X1@4=2s"), "the value 2s", "a number for X"),
        (lambda: parse("X1@4"), "exit with code=None", "0 to 255"),
        (lambda: parse("K1@k%FF"), "the text '%FF'", "UTF-8"),
    ],
)
def test_a_bad_plan_is_one_error(make, what, allowed):
    """One error that says what is wrong and what is right."""
    with pytest.raises(FaultPlanError) as caught:
        make()
    assert caught.value.what.startswith(what)
    assert allowed in caught.value.allowed


def test_a_bad_text_says_where():
    """The fault, and where it begins."""
    with pytest.raises(FaultPlanError) as caught:
        parse("K1@4+X3@5=999")
    assert str(caught.value) == (
        "fault plan, 'X3@5=999' at character 6 of 'K1@4+X3@5=999': exit with code=999 is not allowed;"
        " allowed: code=0 to 255, for exit only"
    )


def test_ranks_are_checked_against_the_group():
    """Victims and those that trigger."""
    kill(rank=1, op=4).check(2)
    for plan in (kill(rank=2, op=4), kill(rank=0, op=4, of=2), server_gone(op=1, of=2)):
        with pytest.raises(FaultPlanError, match=r"rank 2 in .* ranks 0 to 1 here"):
            plan.check(2)


def test_kill_points_are_every_operation_of_every_rank():
    """One plan for each rank and each of its operations."""
    assert list(map(str, kill_points({0: 2, 2: 1}))) == ["K0@1", "K0@2", "K2@1"]


def test_spans_are_whole_microseconds():
    """What text cannot say exactly is rounded when it is made."""
    assert delay(rank=0, op=1, by=0.1234567) == delay(rank=0, op=1, by=0.123457)


@pytest.mark.parametrize(
    "make", [kill, exit, stop, resume, delay, drop, server_gone], ids=lambda make: make.__name__
)
def test_signatures_show_the_keywords_of_triggers(make):
    """To `help`, notebooks and editors; `None` is a trigger that is not given."""
    shown = [name for name, one in inspect.signature(make).parameters.items() if one.kind is one.KEYWORD_ONLY]
    assert shown == ["op", "key", "barrier", "collective", "line", "nth", "of"]
    assert kill(rank=1, op=4, key=None, nth=None, of=None) == kill(rank=1, op=4)
