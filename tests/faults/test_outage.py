"""After an outage the backlog goes first: a reply that was in time wins over the deadline that passed meanwhile."""

from __future__ import annotations

from tests.faults.upstream import Stream, stream
from tests.installation import Installation

FLOWS = """SELECT state_name, count(*) AS flows FROM sagas.instances WHERE saga = 'activation' AND tenant = $1 GROUP BY 1"""


def states(installation: Installation, tenant: str) -> dict[str, int]:
    return {row["state_name"]: row["flows"] for row in installation.query(FLOWS, tenant)}


def late_steps(installation: Installation, tenant: str) -> int:
    return int(
        installation.value(
            "SELECT count(*) FROM sagas.history WHERE because = 'deadline' AND tenant = $1", tenant
        )
    )


def outage(installation: Installation, tenant: str) -> Stream:
    """Let flows begin; then nobody works on sagas, replies come, and the deadlines pass."""
    sent = stream(9, accounts=0, payments=25, tenants=(tenant,))
    paid = sum(sent.payments.values())
    with installation.working("payments", "sagas.activation"):
        installation.send(sent.messages)
        installation.until(
            lambda: states(installation, tenant) == {"Granting": paid}, 60, "every flow waits for its reply"
        )
        installation.until(lambda: "relay.sagas" not in installation.pending(), 30, "every command is sent")
    granted = "SELECT count(*) FROM entitlements.events WHERE tenant = $1"
    with installation.working("entitlements"):
        installation.until(lambda: installation.value(granted, tenant) == paid, 60, "every reply is given")
        installation.until(
            lambda: "relay.entitlements" not in installation.pending(), 30, "every reply is in the log"
        )
    installation.query(
        "UPDATE sagas.deadlines SET due = now() - interval '1 minute' WHERE tenant = $1", tenant
    )
    return sent


def test_replies_in_the_log_win_over_deadlines_that_have_passed(installation: Installation) -> None:
    sent = outage(installation, "outage")
    paid = sum(sent.payments.values())
    with installation.working("sagas.activation"):
        seconds = installation.until(
            lambda: states(installation, "outage") == {"Activated": paid}, 60, "every flow has its reply"
        )
    print(f"\n{paid} flows met their backlog past their deadlines: 0 late, done after {seconds:.1f} s")
    assert late_steps(installation, "outage") == 0
    assert installation.query("SELECT 1 AS x FROM sagas.deadlines WHERE tenant = 'outage'") == []


def test_the_mutant_that_does_not_wait_asks_for_refunds_of_what_was_granted(
    installation: Installation,
) -> None:
    outage(installation, "impatient")
    with installation.working("impatient", "sagas.activation", module="tests.faults.mutants"):
        installation.until(lambda: late_steps(installation, "impatient"), 60, "deadlines fire")
    assert states(installation, "impatient").get("Refunding", 0) > 0
