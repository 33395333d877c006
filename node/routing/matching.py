"""Matching series against rules, with an account of every condition that was looked at. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from node.routing.conditions import WEEKDAYS, Condition, TimeOfDay, When
from node.routing.facts import SeriesFacts, values_at
from node.routing.rules import UNROUTED, Rule, Then
from store.priorities import Priority

_YEARS_PER_UNIT = {"Y": 1.0, "M": 1 / 12, "W": 1 / 52.1775, "D": 1 / 365.2425}


@dataclass(frozen=True)
class Check:
    """One condition that was looked at: what was asked, what was seen, whether it held."""

    asked: str
    seen: str
    held: bool


@dataclass(frozen=True)
class Trial:
    """One rule tried on a series."""

    rule: str
    checks: tuple[Check, ...]

    @property
    def matched(self) -> bool:
        """Whether every condition held."""
        return all(check.held for check in self.checks)


@dataclass(frozen=True)
class SeriesRoute:
    """What is done with a series, by which rule, and the trials of all rules up to it."""

    facts: SeriesFacts
    rule: str
    then: Then
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class StudyRoute:
    """What is done with a study. `screened`: UIDs of the series that may be screened.

    packages, destinations: None for all that are configured. why: one line.
    """

    screened: tuple[str, ...]
    packages: tuple[str, ...] | None
    destinations: tuple[str, ...] | None
    priority: Priority
    why: str


def route_series(rules: Sequence[Rule], facts: SeriesFacts) -> SeriesRoute:
    """The first rule that matches; where none does, the series is screened by all, for all, at normal priority."""
    trials: list[Trial] = []
    for rule in rules:
        trial = Trial(rule.name, tuple(_checks(rule.when, facts)))
        trials.append(trial)
        if trial.matched:
            return SeriesRoute(facts, rule.name, rule.then, tuple(trials))
    return SeriesRoute(facts, UNROUTED, Then(), tuple(trials))


def route_study(rules: Sequence[Rule], series: Sequence[SeriesFacts]) -> StudyRoute:
    """One decision for a study out of those for its series.

    Series that different rules take do not contradict: the study has the most urgent priority among them, and the
    series of that rule decide packages and destinations; other series are not screened for it.
    """
    routes = [route_series(rules, facts) for facts in series]
    wanted = [route for route in routes if route.then.screen]
    if not wanted:
        reasons = dict.fromkeys(f"rule {r.rule}: {r.then.reason or 'not screened'}" for r in routes)
        return StudyRoute((), (), (), Priority.NORMAL, "; ".join(reasons) or "no series")
    order = {rule.name: index for index, rule in enumerate(rules)} | {UNROUTED: len(rules)}
    leading = min(wanted, key=lambda r: (r.then.priority, order[r.rule]))
    chosen = tuple(r.facts.series_instance_uid for r in wanted if r.rule == leading.rule)
    others = sorted({r.rule for r in wanted} - {leading.rule})
    why = f"rule {leading.rule}: {leading.then.priority.name.lower()}, {len(chosen)} of {len(routes)} series"
    if others:
        why += f"; rule {', '.join(others)} also matched, but comes after it in priority or order"
    then = leading.then
    return StudyRoute(chosen, then.packages, then.destinations, then.priority, why)


def _checks(when: When, facts: SeriesFacts) -> list[Check]:
    checks = [_check(path, condition, values_at(facts.sample, path)) for path, condition in when.tags.items()]
    if when.calling_ae is not None:
        checks.append(_check("calling AE", when.calling_ae, (facts.calling_ae,) if facts.calling_ae else ()))
    if when.instances is not None:
        checks.append(_check("instances", when.instances, (str(facts.instances),)))
    if when.time is not None:
        seen = f"{facts.arrived_at:%a %H:%M}"
        checks.append(Check(_time_words(when.time), seen, _in_time(when.time, facts.arrived_at)))
    return checks


def _check(what: str, condition: Condition, values: tuple[str, ...]) -> Check:
    seen = " \\ ".join(values) if values else "no value"
    return Check(f"{what} {_words(condition)}", seen, _holds(condition, values))


def _holds(condition: Condition, values: tuple[str, ...]) -> bool:
    if condition.present is not None and condition.present != bool(values):
        return False
    if condition.not_ is not None and _holds(condition.not_, values):
        return False
    needs_value = any(
        v is not None
        for v in (condition.equals, condition.in_, condition.regex, condition.min, condition.max)
    )
    return not needs_value or any(_satisfies(condition, value) for value in values)


def _satisfies(condition: Condition, value: str) -> bool:
    if condition.equals is not None and value != condition.equals:
        return False
    if condition.in_ is not None and value not in condition.in_:
        return False
    if condition.regex is not None and re.search(condition.regex, value) is None:
        return False
    if condition.min is None and condition.max is None:
        return True
    number = _number(value)
    if number is None:
        return False
    return (condition.min is None or number >= condition.min) and (
        condition.max is None or number <= condition.max
    )


def _number(value: str) -> float | None:
    """A number, or an age in years (PS3.5 6.2, VR AS: nnnD, nnnW, nnnM, nnnY)."""
    if age := re.fullmatch(r"(\d{3})([DWMY])", value):
        return int(age[1]) * _YEARS_PER_UNIT[age[2]]
    try:
        return float(value)
    except ValueError:
        return None


def _in_time(wanted: TimeOfDay, moment: datetime) -> bool:
    clock = moment.time().replace(tzinfo=None)
    overnight = wanted.from_ >= wanted.until
    early = overnight and clock < wanted.until
    if not (wanted.from_ <= clock < wanted.until or (overnight and (clock >= wanted.from_ or early))):
        return False
    began = moment - timedelta(days=1) if early and clock < wanted.from_ else moment
    return not wanted.days or WEEKDAYS[began.weekday()] in wanted.days


def _words(condition: Condition) -> str:
    parts = []
    if condition.equals is not None:
        parts.append(f"= {condition.equals}")
    if condition.in_ is not None:
        parts.append(f"in {', '.join(condition.in_)}")
    if condition.regex is not None:
        parts.append(f"~ {condition.regex}")
    if condition.min is not None:
        parts.append(f">= {condition.min:g}")
    if condition.max is not None:
        parts.append(f"<= {condition.max:g}")
    if condition.present is not None:
        parts.append("present" if condition.present else "absent")
    if condition.not_ is not None:
        parts.append(f"not ({_words(condition.not_)})")
    return " and ".join(parts)


def _time_words(wanted: TimeOfDay) -> str:
    days = f" on {', '.join(wanted.days)}" if wanted.days else ""
    return f"time {wanted.from_:%H:%M}-{wanted.until:%H:%M}{days}"
