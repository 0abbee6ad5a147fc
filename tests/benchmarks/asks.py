"""Read models of a year's payments, filled by the database itself, and what is asked of them.

Every value follows from the row's number, so whoever knows the number knows what to ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import Final
from uuid import UUID

from tests.benchmarks.payments import TENANTS

NEW_YEAR: Final = datetime(2026, 1, 1, tzinfo=UTC)
PRODUCTS: Final = 100
CURRENCIES: Final = ("EUR", "EUR", "EUR", "EUR", "EUR", "EUR", "USD", "USD", "USD", "NGN")

FILL: Final = {
    "payment_history": """
        INSERT INTO {table} (tenant, payment_id, status, customer_id, product_id, amount_minor, currency, captured_minor,
                             refund_due_minor, refunded_minor, provider, provider_ref, initiated_at, captured_at, failure)
        SELECT 'bench-' || lpad((customer % 20)::text, 2, '0'), md5('payment' || n)::uuid, status,
               md5('customer' || customer)::uuid, md5('product' || n / 20 % 100)::uuid, amount,
               (ARRAY['EUR','EUR','EUR','EUR','EUR','EUR','USD','USD','USD','NGN'])[n / 3 % 10 + 1],
               CASE WHEN captured THEN amount ELSE 0 END, 0, 0, 'stripe', 'pi_' || md5('ref' || n), moment - interval '9 s',
               CASE WHEN captured THEN moment END, CASE status WHEN 'failed' THEN 'card_declined' END
        FROM (SELECT n, n % {customers} AS customer, 100 + n::bigint * 7919 % 100000 AS amount,
                     timestamptz '2026-01-01Z' + n::bigint * 7919 % 31536000 * interval '1 s' AS moment,
                     status, status IN ('completed', 'mismatched') AS captured
              FROM generate_series(0, {rows} - 1) AS n, LATERAL (SELECT CASE WHEN n / 7 % 100 < 88 THEN 'completed'
                WHEN n / 7 % 100 < 93 THEN 'failed' WHEN n / 7 % 100 < 96 THEN 'cancelled' WHEN n / 7 % 100 < 98 THEN 'pending'
                WHEN n / 7 % 100 < 99 THEN 'initiated' ELSE 'mismatched' END AS status) AS s) AS made""",
    "customer_spend": """
        INSERT INTO {table} (tenant, customer_id, currency, spent_minor, captured_minor, refunded_minor, payments,
                             first_paid_at, last_paid_at)
        SELECT 'bench-' || lpad((n / 2 % 20)::text, 2, '0'), md5('customer' || n / 2)::uuid, (ARRAY['EUR', 'USD'])[n % 2 + 1],
               spent, spent, 0, 1 + n % 9, moment - interval '30 days', moment
        FROM (SELECT n, n::bigint * 7919 % 1000000 AS spent,
                     timestamptz '2026-01-01Z' + n::bigint * 104729 % 31536000 * interval '1 s' AS moment
              FROM generate_series(0, {rows} - 1) AS n) AS made""",
}
"""How the database fills a view's table."""


@dataclass(frozen=True)
class Ask:
    """One published question, with parameters that a row's number gives."""

    query: str
    """`model/query`, as its route names it."""
    parameters: Callable[[int], Mapping[str, str]]
    condition: str
    """Which rows must come of it, as somebody else would write it: parameters from $2 on, in their order."""
    order: str
    key: tuple[str, ...]
    keyed: bool = False
    """Whether it asks for few rows by a key, or for a page of many."""
    filters: str = ""
    """What the parameters are, where a question is asked with several sets of them."""

    @property
    def name(self) -> str:
        """How the figures call it."""
        return self.query + (f"?{self.filters}" if self.filters else "")

    @property
    def view(self) -> str:
        """Whose rows are asked for."""
        return self.query.partition("/")[0]

    def tenant(self, number: int, rows: int) -> str:
        """Give the tenant whose row has this number."""
        who = number // 2 if self.view == "customer_spend" else number % customers(rows)
        return TENANTS[who % len(TENANTS)]


def customers(rows: int) -> int:
    """Say how many people made so many payments."""
    return max(len(TENANTS), rows // 5 // len(TENANTS) * len(TENANTS))


def known(what: str, number: int) -> UUID:
    """Give the id that the database gives."""
    return UUID(md5(f"{what}{number}".encode(), usedforsecurity=False).hexdigest())


def asks(rows: int) -> list[Ask]:
    """Give everything that is asked of tables of so many rows."""
    latest, payment = "captured_at DESC, payment_id", ("payment_id",)

    def customer(number: int) -> str:
        return str(known("customer", number % customers(rows)))

    def since(number: int) -> str:
        return (NEW_YEAR + timedelta(days=number % 300)).isoformat()

    def until(number: int) -> str:
        return (NEW_YEAR + timedelta(days=number % 300 + 30)).isoformat()

    def listed(filters: str, parameters: Callable[[int], Mapping[str, str]], condition: str) -> Ask:
        return Ask("payment_history/by_status", parameters, condition, latest, payment, filters=filters)

    def top(filters: str, parameters: Callable[[int], Mapping[str, str]], condition: str) -> Ask:
        order, key = "spent_minor DESC, customer_id, currency", ("customer_id", "currency")
        return Ask("customer_spend/top", parameters, condition, order, key, filters=filters)

    return [
        Ask(
            "payment_history/by_id",
            lambda n: {"payment_id": str(known("payment", n))},
            "payment_id = $2",
            "payment_id",
            payment,
            keyed=True,
        ),
        Ask(
            "payment_history/by_provider_ref",
            lambda n: {"provider_ref": f"pi_{known('ref', n).hex}"},
            "provider_ref = $2",
            "payment_id",
            payment,
            keyed=True,
        ),
        Ask(
            "payment_history/of_customer",
            lambda n: {"customer_id": customer(n)},
            "customer_id = $2",
            latest,
            payment,
            keyed=True,
        ),
        Ask(
            "payment_history/of_customer",
            lambda n: {"customer_id": customer(n), "status": "completed"},
            "customer_id = $2 AND status = $3",
            latest,
            payment,
            keyed=True,
            filters="status",
        ),
        listed("", lambda _: {}, "true"),
        listed("status", lambda _: {"status": "completed"}, "status = $2"),
        listed("status=rare", lambda _: {"status": "mismatched"}, "status = $2"),
        listed(
            "product_id",
            lambda n: {"product_id": str(known("product", n % PRODUCTS))},
            "product_id = $2",
        ),
        listed("currency", lambda _: {"currency": "NGN"}, "currency = $2"),
        listed(
            "captured",
            lambda n: {"captured_since": since(n), "captured_until": until(n)},
            "captured_at >= $2 AND captured_at < $3",
        ),
        listed(
            "everything",
            lambda n: {
                "status": "completed",
                "product_id": str(known("product", n % PRODUCTS)),
                "currency": "USD",
                "captured_since": since(n),
                "captured_until": until(n),
            },
            "status = $2 AND product_id = $3 AND currency = $4 AND captured_at >= $5 AND captured_at < $6",
        ),
        Ask(
            "customer_spend/of_customer",
            lambda n: {"customer_id": str(known("customer", n // 2))},
            "customer_id = $2",
            "customer_id, currency",
            ("customer_id", "currency"),
            keyed=True,
        ),
        top("", lambda _: {"currency": "EUR"}, "currency = $2"),
        top(
            "spent_minor_from",
            lambda n: {"currency": "EUR", "spent_minor_from": str(n % 1_000_000)},
            "currency = $2 AND spent_minor >= $3",
        ),
        top(
            "last_paid",
            lambda n: {"currency": "USD", "last_paid_since": since(n), "last_paid_until": until(n)},
            "currency = $2 AND last_paid_at >= $3 AND last_paid_at < $4",
        ),
    ]
