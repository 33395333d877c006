"""The tables of the study-state store. `store/migrations` builds them; a test keeps both in agreement."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from store.columns import UTCDateTime
from store.states import DeliveryState, PriorState, StudyState, WorkitemState

UID = String(64)
"""PS3.5 9.1: a UID has at most 64 characters."""
AE_TITLE = String(16)
DIGEST = String(64)
"""SHA-256, hex."""
KEY = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up only in a column that is called INTEGER."""


def _enum(kind: type[StrEnum]) -> Enum:
    return Enum(kind, native_enum=False, length=16, values_callable=lambda e: [m.value for m in e])


class Base(DeclarativeBase):
    """Names every constraint, so that a migration can alter it on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        datetime: UTCDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
        list[list[str]]: JSON,
    }


class Study(Base):
    """One study: its state, and the lease of the worker that screens it.

    patient_digest: SHA-256 over patient id and issuer; the store holds no identity.
    revision: number of the newest revision, 0 before the first.
    receiving_since: when the present round of reception began (a late instance begins a new one).
    fence: raised by one at every claim and at every change that makes a running claim void, so that the late
        result of a lost worker is told from the present one's.
    attempts: claims of the present revision since it was complete or an admin asked again.
    routing: what the routing rules decided for the present revision; None for no restriction.
    verdict: `store.verdicts.verdict_text` of the newest screening; None before the first.
    commitment_asked_at: when a sender last asked us to keep images of it (PS3.4 J), and may have deleted its own.
    """

    __tablename__ = "studies"
    __table_args__ = (
        Index("ix_studies_state_priority_not_before", "state", "priority", "not_before"),
        Index("ix_studies_state_lease_expires_at", "state", "lease_expires_at"),
        Index("ix_studies_verdict_changed_at", "verdict", "changed_at"),
    )

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(UID, unique=True)
    patient_digest: Mapped[str] = mapped_column(DIGEST, index=True)
    state: Mapped[StudyState] = mapped_column(_enum(StudyState))
    reason: Mapped[str] = mapped_column(Text, default="")
    revision: Mapped[int] = mapped_column(default=0)
    instance_count: Mapped[int] = mapped_column(default=0)
    byte_count: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[datetime] = mapped_column(index=True)
    receiving_since: Mapped[datetime]
    last_received_at: Mapped[datetime]
    changed_at: Mapped[datetime] = mapped_column(index=True)
    priority: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime]
    fence: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    claimed_by: Mapped[str | None] = mapped_column(String(128))
    lease_expires_at: Mapped[datetime | None]
    purged_at: Mapped[datetime | None]
    routing: Mapped[dict[str, Any] | None]
    verdict: Mapped[str | None] = mapped_column(String(32))
    commitment_asked_at: Mapped[datetime | None]


class Series(Base):
    """One series of a study."""

    __tablename__ = "series"
    __table_args__ = (UniqueConstraint("study_id", "series_instance_uid"),)

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    series_instance_uid: Mapped[str] = mapped_column(UID)
    modality: Mapped[str] = mapped_column(String(16))


class Instance(Base):
    """One acknowledged instance.

    sha256, path: of the Part 10 file; the path is relative to the storage folder.
    kept_out: why it is not screened; None for an image that may be.
    first_revision: the first revision that contains it; None while the study is still receiving.
    held_by: the node whose disk alone has it, until it is in the object store (`store.uploads`); None where every
        node that shares the store reaches it.
    """

    __tablename__ = "instances"
    __table_args__ = (
        Index("ix_instances_study_id_first_revision", "study_id", "first_revision"),
        Index(
            "ix_instances_study_id_held_by",
            "study_id",
            "held_by",
            sqlite_where=text("held_by IS NOT NULL"),
            postgresql_where=text("held_by IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    association_id: Mapped[int | None] = mapped_column(ForeignKey("associations.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(UID, unique=True)
    sop_class_uid: Mapped[str] = mapped_column(UID)
    transfer_syntax_uid: Mapped[str] = mapped_column(UID)
    sha256: Mapped[str] = mapped_column(DIGEST)
    size: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str] = mapped_column(String(255), unique=True)
    received_at: Mapped[datetime]
    kept_out: Mapped[str | None] = mapped_column(Text)
    first_revision: Mapped[int | None]
    held_by: Mapped[str | None] = mapped_column(String(128))


class Revision(Base):
    """A frozen instance set of a study. `created_at` never changes: derived dates of results come from it."""

    __tablename__ = "revisions"
    __table_args__ = (UniqueConstraint("study_id", "number"), UniqueConstraint("study_id", "digest"))

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(DIGEST)
    instance_count: Mapped[int]
    created_at: Mapped[datetime]


class Screening(Base):
    """One screening of one revision with one set of packages and settings. `summary`: verdicts, for people."""

    __tablename__ = "screenings"
    __table_args__ = (UniqueConstraint("revision_id", "settings_digest"),)

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id"))
    settings_digest: Mapped[str] = mapped_column(DIGEST)
    worker: Mapped[str] = mapped_column(String(128))
    finished_at: Mapped[datetime]
    summary: Mapped[dict[str, Any]]


class Result(Base):
    """One result object. `path`: of the file in the outbox, relative to the storage folder."""

    __tablename__ = "results"
    __table_args__ = (UniqueConstraint("screening_id", "sop_instance_uid"),)

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    screening_id: Mapped[int] = mapped_column(ForeignKey("screenings.id"))
    kind: Mapped[str] = mapped_column(String(16))
    sop_class_uid: Mapped[str] = mapped_column(UID)
    sop_instance_uid: Mapped[str] = mapped_column(UID, index=True)
    series_instance_uid: Mapped[str] = mapped_column(UID)
    path: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime]


class Delivery(Base):
    """One result on its way to one destination.

    last_status: the DIMSE status of the newest answer, None where none came. last_error: what a person reads.
    transaction_uid: of the request for storage commitment that is not answered yet; while the delivery is stored,
    next_attempt_at is when to ask, or how long to wait for the answer. commitment_attempts: requests so far.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("result_id", "destination"),
        Index("ix_deliveries_state_next_attempt_at", "state", "next_attempt_at"),
        Index("ix_deliveries_destination_state_attempts", "destination", "state", "attempts"),
        Index("ix_deliveries_destination_delivered_at", "destination", "delivered_at"),
    )

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    result_id: Mapped[int] = mapped_column(ForeignKey("results.id"))
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    destination: Mapped[str] = mapped_column(String(64))
    state: Mapped[DeliveryState] = mapped_column(_enum(DeliveryState))
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime]
    last_status: Mapped[int | None]
    last_error: Mapped[str] = mapped_column(Text, default="")
    claimed_by: Mapped[str | None] = mapped_column(String(128))
    lease_expires_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    transaction_uid: Mapped[str | None] = mapped_column(UID, index=True)
    commitment_attempts: Mapped[int] = mapped_column(default=0)


class CommitmentRequest(Base):
    """A sender's request for storage commitment (PS3.4 J), kept until its report has arrived.

    references: list of [SOP Class UID, SOP Instance UID]. association_id is not kept: a report may take any way.
    reported_at: when the sender had the answer. last_error: why the newest report did not arrive.
    """

    __tablename__ = "commitment_requests"
    __table_args__ = (UniqueConstraint("calling_ae", "transaction_uid"),)

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(UID)
    calling_ae: Mapped[str] = mapped_column(AE_TITLE)
    host: Mapped[str] = mapped_column(String(64))
    references: Mapped[list[list[str]]]
    received_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime | None] = mapped_column(index=True)
    reported_at: Mapped[datetime | None]
    last_error: Mapped[str] = mapped_column(Text, default="")


class PriorSearch(Base):
    """The search for the prior of a study, see `store.prior_searches`.

    prior_study_instance_uid: what was chosen. fetched: whether this node fetched it, since nobody had sent it.
    """

    __tablename__ = "prior_searches"
    __table_args__ = (
        UniqueConstraint("study_id"),
        Index("ix_prior_searches_state_next_attempt_at", "state", "next_attempt_at"),
    )

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    state: Mapped[PriorState] = mapped_column(_enum(PriorState))
    prior_study_instance_uid: Mapped[str | None] = mapped_column(UID, index=True)
    fetched: Mapped[bool] = mapped_column(default=False)
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    why: Mapped[str] = mapped_column(Text, default="")


class Workitem(Base):
    """A workitem of a worklist that the node claims, see `store.workitems`. since: when it came to its state."""

    __tablename__ = "workitems"

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    workitem_uid: Mapped[str] = mapped_column(UID, unique=True)
    transaction_uid: Mapped[str] = mapped_column(UID)
    study_instance_uid: Mapped[str] = mapped_column(UID)
    state: Mapped[WorkitemState] = mapped_column(_enum(WorkitemState), index=True)
    told: Mapped[str] = mapped_column(Text, default="")
    since: Mapped[datetime]


class Announcement(Base):
    """What another system said a study consists of: Instance Availability Notification, MPPS completed.

    instances: SOP Instance UIDs.
    """

    __tablename__ = "announcements"

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    sop_instance_uid: Mapped[str] = mapped_column(UID, index=True)
    study_instance_uid: Mapped[str] = mapped_column(UID, index=True)
    instances: Mapped[list[str]]
    who: Mapped[str] = mapped_column(String(128))
    at: Mapped[datetime] = mapped_column(index=True)


class Transition(Base):
    """One change of a study's state, or one remark on it (then both states are the same)."""

    __tablename__ = "transitions"

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    at: Mapped[datetime] = mapped_column(index=True)
    who: Mapped[str] = mapped_column(String(128))
    before: Mapped[StudyState | None] = mapped_column(_enum(StudyState))
    after: Mapped[StudyState] = mapped_column(_enum(StudyState))
    revision: Mapped[int]
    why: Mapped[str] = mapped_column(Text)


class AssociationRecord(Base):
    """One association that a listener accepted. `closed_at` is None while it is open."""

    __tablename__ = "associations"
    __table_args__ = (Index("ix_associations_closed_at_listener", "closed_at", "listener"),)

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    listener: Mapped[str] = mapped_column(String(128))
    calling_ae: Mapped[str] = mapped_column(AE_TITLE)
    called_ae: Mapped[str] = mapped_column(AE_TITLE)
    host: Mapped[str] = mapped_column(String(64))
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    end: Mapped[str] = mapped_column(String(64), default="")


class Carriage(Base):
    """An association has brought an instance of a study: while it is open the study is not complete."""

    __tablename__ = "carriages"

    association_id: Mapped[int] = mapped_column(ForeignKey("associations.id"), primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), primary_key=True, index=True)


class Refusal(Base):
    """An instance or association that the listener refused, with the reason that the sender was given."""

    __tablename__ = "refusals"

    id: Mapped[int] = mapped_column(KEY, primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    calling_ae: Mapped[str] = mapped_column(AE_TITLE)
    host: Mapped[str] = mapped_column(String(64))
    study_instance_uid: Mapped[str | None] = mapped_column(UID, index=True)
    sop_instance_uid: Mapped[str | None] = mapped_column(UID)
    status: Mapped[int | None]
    why: Mapped[str] = mapped_column(Text)


class Process(Base):
    """A process of the node that lives: listener, worker or delivery, with its newest heartbeat.

    equipment: the model packages of a worker, in words; None for other processes.
    """

    __tablename__ = "processes"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
    doing: Mapped[str] = mapped_column(Text, default="")
    equipment: Mapped[str | None] = mapped_column(Text)


class BuiltEngine(Base):
    """An engine of a model package, as a worker last reported it: building, ready, or failed and why."""

    __tablename__ = "engines"

    name: Mapped[str] = mapped_column(String(256), primary_key=True)
    package: Mapped[str] = mapped_column(String(64))
    graph: Mapped[str] = mapped_column(String(64))
    precision: Mapped[str] = mapped_column(String(16))
    backend: Mapped[str] = mapped_column(String(32))
    state: Mapped[Literal["building", "ready", "failed"]] = mapped_column(String(16))
    why: Mapped[str] = mapped_column(Text)
    seconds: Mapped[float]
    since: Mapped[datetime]
    builds: Mapped[int]
    failures: Mapped[int]
