"""What counts as too far behind a log, and that many tenants with one trouble are one cause."""

from datetime import UTC, datetime, timedelta

from erpkit.database import Tenant
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.health import EventHealth
from erpkit.events.lag import EventLag, GroupLag
from erpkit.events.orphans import Orphan, orphan_findings
from erpkit.finding import exit_code, group_findings

NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
TENANTS = [Tenant(slug, f"tenant_{slug}") for slug in ("acme", "bluebird", "cobalt")]
GROUPS = [ConsumerGroup("billing.on_order", ("sales.OrderPlaced",))]


def _group(slug: str, waiting: int, minutes: int, attempts: int = 0) -> GroupLag:
    oldest = NOW - timedelta(minutes=minutes) if waiting else None
    return GroupLag(slug, "billing.on_order", "sales.OrderPlaced", waiting, oldest, 5, NOW, None, attempts)


def test_the_same_lag_of_many_tenants_is_one_cause_whatever_the_figures() -> None:
    groups = [_group("acme", 7, 61), _group("bluebird", 9, 62), _group("cobalt", 1, 1)]
    lag = EventLag(NOW, TENANTS, GROUPS, groups, [], max_lag=8, max_age=300)
    causes = [str(cause) for cause in group_findings(lag.findings)]
    assert causes == [
        "2 tenants: an event has waited for billing.on_order for more than 5 min (bluebird, acme)",
        "bluebird: more than 8 events wait for billing.on_order",
    ]
    assert [lag.is_over(group) for group in groups] == [True, True, False]
    assert (lag.waiting, lag.oldest) == (17, 62 * 60)


def test_without_limits_only_poison_and_what_was_not_looked_at_are_findings() -> None:
    lag = EventLag(NOW, TENANTS, GROUPS, [_group("acme", 7, 61, attempts=2)], [], {"bluebird": "denied"})
    assert [(f.kind, f.subject, f.severity) for f in lag.findings] == [
        ("poison message", "acme", "error"), ("no log", "cobalt", "warning"), ("not read", "bluebird", "warning"),
    ]  # fmt: skip


def test_the_lag_of_many_tenants_shows_itself_as_a_table_and_its_causes() -> None:
    tenants = [Tenant(f"tenant_{n}", f"tenant_tenant_{n}") for n in range(300)]
    lag = EventLag(NOW, tenants, GROUPS, [_group("tenant_0", 7, 61), _group("tenant_1", 0, 0)], [])
    lines = repr(lag).splitlines()
    assert [line.split()[:3] for line in lines[:2]] == [
        ["tenant", "handler", "topic"], ["tenant_0", "billing.on_order", "sales.OrderPlaced"],
    ]  # fmt: skip
    assert lines[2:] == ["! 298 tenants: has no event log (tenant_2, tenant_3 and 296 more)"]
    assert "298 tenants: has no event log" in lag._repr_html_()


def test_where_nothing_was_looked_at_nothing_is_said_to_wait() -> None:
    for lag in (EventLag(NOW, [], GROUPS, [], []), EventLag(NOW, TENANTS, GROUPS, [], [], {"acme": "denied"})):
        assert repr(lag).splitlines()[0] == "nothing was looked at"


def test_no_tenants_and_no_handlers_are_findings() -> None:
    nothing = EventLag(NOW, [], [], [], [])
    assert ([finding.kind for finding in nothing.findings], exit_code(nothing.findings)) == (
        ["no tenants", "no modules"],
        3,
    )
    health = EventHealth("here", nothing, [], [])
    assert (health.summary.facts["oldest"], health.summary.exit_code) == ("0 s", 3)


def test_events_without_a_topic_are_called_so() -> None:
    (finding,) = orphan_findings([Orphan("acme", "topic", "", 1)])
    assert finding.problem == "no handler handles events without a topic (any more)"
