"""Fetches in sessions (KIP-227): the broker remembers what a consumer reads, so that only what has changed is said.

By itself the client names every partition in every fetch, and the broker every one in its answer: dozens, to bring a record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

from aiokafka.errors import for_code
from aiokafka.protocol.api import Request
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v11

from infra.kafka.record import Place

LAST: Final = 2**31 - 1
Send = Callable[..., Awaitable[Any]]


class Fetch(Request[FetchRequest_v11]):  # type: ignore[misc]
    """A fetch that is made already."""

    API_KEY = FetchRequest.API_KEY

    def __init__(self, made: Any) -> None:
        """Send `made`."""
        self._made = made

    def build(self, request_struct_class: Any) -> Any:  # noqa: ARG002 - the client chooses it
        """Give the request as it was made: whichever struct the client has chosen, there is one version."""
        return self._made


class Session(NamedTuple):
    """What one broker knows of us: the session's number, how many fetches it has had, and what each partition is read from."""

    number: int
    fetches: int
    known: dict[Place, Any]

    def fetch(self, request: Any) -> tuple[Fetch, dict[Place, Any]]:
        """Say what has changed since the last fetch; give with it what the broker knows thereafter."""
        made = request.build(FetchRequest_v11)
        wanted: dict[Place, Any] = {
            (topic, partition[0]): partition for topic, partitions in made.topics for partition in partitions
        }
        changed = {place: it for place, it in wanted.items() if self.known.get(place) != it}
        made.session_id, made.session_epoch = self.number, self.fetches
        made.topics = _by_topic((topic, it) for (topic, _), it in changed.items())
        made.forgotten_topics_data = _by_topic(self.known.keys() - wanted.keys())
        return Fetch(made), wanted


NONE: Final = Session(0, 0, {})
"""No session: the broker is asked for one."""


class Sessions:
    """A session with each broker, in place of a client's `send`."""

    def __init__(self, send: Send) -> None:
        """Send by `send`."""
        self._send = send
        self._sessions: dict[int, Session] = {}

    async def send(self, node: int, request: Any, **how: Any) -> Any:
        """Send a request; a fetch in the session, which begins anew after whatever has gone wrong in it."""
        if not isinstance(request, FetchRequest):
            return await self._send(node, request, **how)
        session = self._sessions.get(node, NONE)
        # Whatever ends this fetch without an answer leaves open what the broker has heard: next it hears everything.
        self._sessions[node] = session._replace(fetches=0, known={})
        fetch, known = session.fetch(request)
        answer = await self._send(node, fetch, **how)
        if answer.error_code:
            raise for_code(answer.error_code)(
                "the broker does not know the session of these fetches any more"
            )
        if answer.session_id:
            self._sessions[node] = Session(answer.session_id, session.fetches % LAST + 1, known)
        return answer


def _by_topic(places: Any) -> list[tuple[str, list[Any]]]:
    """Put what belongs to the partitions of a topic together."""
    ordered = sorted(places, key=itemgetter(0))
    return [(topic, [it for _, it in of]) for topic, of in groupby(ordered, itemgetter(0))]
