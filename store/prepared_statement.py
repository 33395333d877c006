"""A statement that is compiled once and then given to the driver as text.

SQLAlchemy takes three times as long as SQLite itself for a short statement. Where a sender waits for each, the
statement is still written in terms of the models, and only its execution is the driver's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Executable
from sqlalchemy.engine import Dialect


class PreparedStatement:
    """One statement for one kind of database. text: what the driver executes."""

    def __init__(self, statement: Executable, dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect)  # type: ignore[attr-defined]  # every DML statement has it
        self.text = str(compiled)
        self._order: list[str] | None = compiled.positiontup
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}
        self._conversions: dict[str, Callable[[Any], Any]] = {}
        for parameter, name in compiled.bind_names.items():
            conversion = parameter.type.dialect_impl(dialect).bind_processor(dialect)
            if conversion is not None:
                self._conversions[name] = conversion

    def parameters(self, values: Mapping[str, Any]) -> tuple[Any, ...] | dict[str, Any]:
        """The values as the driver takes them, in its order where it wants one. Raises KeyError."""
        given = {**self._constants, **values}
        for name, conversion in self._conversions.items():
            given[name] = conversion(given[name])
        return given if self._order is None else tuple(given[name] for name in self._order)
