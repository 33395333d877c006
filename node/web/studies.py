"""The list of studies: search, filters, pages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.responses import Response

from node.audit import Action, Event
from node.web.identity import Identity, digest_of_patient, identity_of
from node.web.site import Visit
from node.web.verdict import StudyVerdict, study_verdict
from store import overview, queries
from store.overview import StudyFilter, StudyRow
from store.states import StudyState
from store.verdicts import VerdictChoice

VERDICT_WORDS = {
    VerdictChoice.POSITIVE: "pneumonia, by either system",
    VerdictChoice.NEGATIVE: "no pneumonia",
    VerdictChoice.DISAGREE: "the systems disagree",
    VerdictChoice.COVID19: "M3Lung-Sys: COVID-19",
    VerdictChoice.H1N1: "M3Lung-Sys: H1N1",
    VerdictChoice.CAP: "M3Lung-Sys: CAP",
}

PAGE_ROWS = 50
DEEPEST_PAGE = 4000


@dataclass(frozen=True)
class Search:
    """What somebody looks for. text: the beginning of a Study Instance UID, or a whole patient id."""

    text: str
    states: tuple[StudyState, ...]
    verdict: VerdictChoice | None
    since: str
    until: str
    page: int

    @property
    def filter(self) -> StudyFilter:
        """The same for the store."""
        return StudyFilter(
            states=self.states,
            verdict=self.verdict,
            uid=self.text,
            patient_digest=digest_of_patient(self.text) if self.text else "",
            since=_midnight(self.since),
            until=_midnight(self.until, days=1),
        )

    def link(self, page: int) -> str:
        """The address of another page of the same search."""
        pairs = [("q", self.text), ("since", self.since), ("until", self.until)]
        pairs += [("state", state.value) for state in self.states]
        pairs += [("verdict", self.verdict.value)] if self.verdict else []
        chosen = [(key, value) for key, value in pairs if value]
        return "/studies?" + urlencode([*chosen, ("page", str(page))])


@dataclass(frozen=True)
class ListedStudy:
    """A row of the list. identity: only for those who may see it."""

    row: StudyRow
    verdict: StudyVerdict | None
    identity: Identity | None


def read_search(query: QueryParams) -> Search:
    """The search in an address; what makes no sense is left out."""
    known = {state.value: state for state in StudyState}
    verdicts = {choice.value: choice for choice in VerdictChoice}
    page = query.get("page", "1")
    return Search(
        text=query.get("q", "").strip()[:64],
        states=tuple(known[s] for s in query.getlist("state") if s in known),
        verdict=verdicts.get(query.get("verdict", "")),
        since=_valid_date(query.get("since", "")),
        until=_valid_date(query.get("until", "")),
        page=min(DEEPEST_PAGE, max(1, int(page))) if page.isdecimal() and len(page) < 6 else 1,
    )


def show(visit: Visit) -> Response:
    """The list; as part of a page where the page itself asks."""
    search = read_search(visit.request.query_params)
    with visit.site.database.read() as session:
        rows = overview.study_page(
            session, search.filter, limit=PAGE_ROWS + 1, offset=(search.page - 1) * PAGE_ROWS
        )
        counts = queries.counts_by_state(session)
    listed = [_listed(visit, row) for row in rows[:PAGE_ROWS]]
    if search.text:
        visit.audit(Event.QUERY, Action.EXECUTE, detail=f"studies searched, {len(listed)} shown")
    part = visit.request.headers.get("HX-Target") == "results"
    return visit.page(
        "studies_results.html" if part else "studies.html",
        search=search,
        listed=listed,
        more=len(rows) > PAGE_ROWS,
        counts=counts,
        states=tuple(StudyState),
        verdicts=VERDICT_WORDS,
        sees_names=visit.sees_names,
    )


def _listed(visit: Visit, row: StudyRow) -> ListedStudy:
    identity = identity_of(visit.site.files / row.path) if visit.sees_names and row.path else None
    return ListedStudy(row, None if row.summary is None else study_verdict(row.summary), identity)


def _valid_date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        return ""


def _midnight(text: str, days: int = 0) -> datetime | None:
    """The start of a day of local time, in UTC; None for no day."""
    if not text:
        return None
    day = datetime.combine(date.fromisoformat(text) + timedelta(days=days), datetime.min.time())
    return day.astimezone().astimezone(UTC)
