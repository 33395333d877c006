"""What the routing rules decided for a study, as the store keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Routing:
    """The decision for one revision of a study.

    series: UIDs of the series that may be screened, empty for none. packages, destinations: None for all that are
    configured. priority: see store.priorities. why: one line.
    """

    series: tuple[str, ...]
    packages: tuple[str, ...] | None
    destinations: tuple[str, ...] | None
    priority: int
    why: str

    def as_json(self) -> dict[str, Any]:
        """For the column `routing` of a study."""
        return {
            "series": list(self.series),
            "packages": None if self.packages is None else list(self.packages),
            "destinations": None if self.destinations is None else list(self.destinations),
            "priority": self.priority,
            "why": self.why,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Routing:
        """The reverse of `as_json`."""
        return cls(
            series=tuple(content["series"]),
            packages=_tuple(content["packages"]),
            destinations=_tuple(content["destinations"]),
            priority=int(content["priority"]),
            why=str(content["why"]),
        )


def _tuple(value: list[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)
