"""Cards are charged once: the provider answers badly after it has charged, and workers are killed in the middle.

The provider is the Stripe simulator, which the official SDK talks to; it honours idempotency keys and can be searched.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator
from uuid import uuid4

import httpx
import pytest

from tests.installation import Installation, Sent


@pytest.fixture(scope="module")
def provider(installation: Installation) -> Generator[str]:
    """Run the simulator; give its address."""
    with installation.provider() as base:
        yield base


def failing(installation: Installation, provider: str, rate: float) -> None:
    """Let the provider fail after it has charged, that often."""
    headers = {"Authorization": f"Bearer {installation.settings.stripe_api_key}"}
    httpx.delete(f"{provider}/simulator/faults", headers=headers, trust_env=False).raise_for_status()
    for seed, kind in enumerate(("500_after_charge", "timeout_after_charge")):
        body = {"kind": kind, "rate": rate, "seed": seed, "seconds": 5}
        httpx.post(
            f"{provider}/simulator/faults", headers=headers, json=body, trust_env=False
        ).raise_for_status()


def orders(tenant: str, number: int) -> list[Sent]:
    """Ask for charges."""
    made = []
    for _ in range(number):
        payment = str(uuid4())
        body = {
            "payment_id": payment,
            "customer_id": str(uuid4()),
            "product_id": str(uuid4()),
            "amount": {"minor": 1250, "currency": "EUR"},
            "payment_method": "pm_card_visa",
        }
        made.append(Sent("payments.inbound", tenant, payment, "payments.InitiatePayment", body))
    return made


def charges(installation: Installation, tenant: str) -> Counter[str]:
    """Count what the provider took, by payment."""
    rows = installation.query(
        """SELECT metadata->>'payment_id' AS payment, count(*) AS charges FROM stripe_simulator.objects
           WHERE kind = 'payment_intent' AND metadata->>'tenant' = $1 AND body->>'status' = 'succeeded' GROUP BY 1""",
        tenant,
    )
    return Counter({row["payment"]: row["charges"] for row in rows})


def run(
    installation: Installation, provider: str, mutant: str, number: int, kills: int
) -> tuple[list[Sent], str, float]:
    """Charge under fire; give the orders, their tenant and how long the last took after the fire."""
    tenant = f"cards-{mutant}"
    failing(installation, provider, 0.15)
    names = (mutant, "payments")
    workers = [
        installation.worker(*names, module="tests.faults.mutants", TRIPLANE_STRIPE_API_BASE=provider)
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    asked = orders(tenant, number)
    installation.send(asked[: number // 2])
    completed = (
        "SELECT count(*) FROM payments.events WHERE tenant = $1 AND type = 'payments.PaymentCompleted'"
    )
    installation.until(lambda: charges(installation, tenant), 60, "the first charge")
    for killed in range(kills):
        worker = workers[killed % 2]
        worker.kill()
        worker.start()
        time.sleep(1)
        if killed == kills // 2:
            installation.send(asked[number // 2 :])
    failing(installation, provider, 0)
    began = time.monotonic()
    installation.until(
        lambda: installation.value(completed, tenant) >= number, 90, "every payment is completed"
    )
    for worker in workers:
        worker.terminate()
    return asked, tenant, time.monotonic() - began


def test_each_payment_is_charged_once_whatever_happens_in_the_middle(
    installation: Installation, provider: str
) -> None:
    asked, tenant, seconds = run(installation, provider, "hurried", number=60, kills=8)
    charged = charges(installation, tenant)
    double = sum(number - 1 for number in charged.values())
    facts = installation.query(
        "SELECT type, count(*) AS facts FROM payments.events WHERE tenant = $1 GROUP BY type", tenant
    )
    standing = installation.query(
        "SELECT standing, count(*) AS n FROM payments.effects WHERE tenant = $1 GROUP BY 1", tenant
    )
    print(
        f"\nkilled 8 while charging {len(asked)} cards; charged {charged.total()}, twice {double}; "
        f"all completed {seconds:.1f} s after the last fault"
    )
    assert set(charged) == {it.key for it in asked}
    assert double == 0
    assert {row["type"]: row["facts"] for row in facts} == {
        "payments.PaymentInitiated": len(asked),
        "payments.PaymentCompleted": len(asked),
    }
    assert [(row["standing"], row["n"]) for row in standing] == [("done", len(asked))]


def test_the_mutant_that_does_not_look_up_charges_twice(installation: Installation, provider: str) -> None:
    _, tenant, _ = run(installation, provider, "careless", number=30, kills=3)
    assert max(charges(installation, tenant).values()) > 1
