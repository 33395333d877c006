"""The rules of config.yaml: conditions, and what is done with a series that meets them; the first match wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from node.routing.conditions import Section, When
from store.priorities import Priority

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]

UNROUTED = "(no rule)"
"""Name of what is done with a series that no rule matches."""


class Then(Section):
    """What is done with a series. packages, destinations: None for all that are configured."""

    screen: bool = True
    reason: str = ""
    packages: tuple[str, ...] | None = None
    destinations: tuple[str, ...] | None = None
    priority: Priority = Priority.NORMAL

    @model_validator(mode="after")
    def _does_not_contradict(self) -> Then:
        if not self.screen and self.model_fields_set & {"packages", "destinations", "priority"}:
            raise ValueError("screen: false leaves nothing to give packages, destinations or a priority to")
        if self.priority is Priority.IDLE:
            raise ValueError("priority: idle is for priors alone; allowed are urgent, normal and background")
        if self.packages == ():
            raise ValueError("packages: [] would screen with nothing; say screen: false instead")
        return self


class Rule(Section):
    """One rule: a series that meets `when` is treated as `then` says."""

    name: Name
    when: When = When()
    then: Then = Then()


def checked(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The same rules. Raises ValueError where they contradict: a name given twice, a rule that none can reach."""
    for index, rule in enumerate(rules):
        for earlier in rules[:index]:
            if earlier.name == rule.name:
                raise ValueError(f"the name {rule.name!r} is given to two rules; each name is allowed once")
            if earlier.when.is_always or earlier.when == rule.when:
                raise ValueError(
                    f"rule {rule.name!r} can never match: {earlier.name!r} before it takes all that it would"
                )
    return rules


Rules = Annotated[tuple[Rule, ...], AfterValidator(checked)]


def check_names(rules: Sequence[Rule], *, destinations: Sequence[str], packages: Sequence[str]) -> None:
    """Raises ValueError where a rule names a destination or package that is not configured."""
    for rule in rules:
        for kind, wanted, known in (
            ("destination", rule.then.destinations, destinations),
            ("package", rule.then.packages, packages),
        ):
            for name in wanted or ():
                if name not in known:
                    allowed = ", ".join(known) or "none, since none is configured"
                    raise ValueError(f"rule {rule.name!r} names the {kind} {name!r}; allowed: {allowed}")
