"""Requests as Stripe reads them: nested form fields, checked by name, and refusals in Stripe's shape."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any, NoReturn

__all__ = ["Object", "Params", "Refused", "nested"]

Object = dict[str, Any]
"""A Stripe object or error as it is sent."""

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_MAX_DEPTH = 6
_TRUTHS = {"true": True, "false": False}


class Refused(Exception):
    """The request gets this answer instead of an object."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None, **more: object
    ) -> None:
        """Refuse with the HTTP `status`; `more` are further fields of the error, `type` among them."""
        super().__init__(message)
        self.status = status
        error = {"type": "invalid_request_error", "message": message, "code": code, "param": param, **more}
        self.body: Object = {"error": {name: value for name, value in error.items() if value is not None}}


def nested(pairs: Iterable[tuple[str, str]]) -> Object:
    """Give the tree that flat fields such as `metadata[order]` and `expand[0]` spell out."""
    root: Object = {}
    for name, value in pairs:
        if not (found := _NAME.fullmatch(name)):
            raise Refused(400, f"Invalid field name: {name[:100]}", "parameter_unknown", name[:100])
        if "\0" in value:
            raise Refused(
                400, f"Invalid string: {name[:100]} holds a NUL", "parameter_invalid_string", name[:100]
            )
        path = [found[1], *re.findall(r"\[([^\[\]]*)\]", found[2])]
        if len(path) > _MAX_DEPTH:
            raise Refused(400, f"Too deeply nested: {name[:100]}", "parameter_unknown", path[0])
        node = root
        for depth, part in enumerate(path[:-1]):
            node = node.setdefault(part or str(len(node)), {})
            if not isinstance(node, dict):
                raise Refused(
                    400, f"Invalid object: {'.'.join(path[: depth + 1])}", "parameter_invalid", path[0]
                )
        node[path[-1] or str(len(node))] = value
    return root


class Params:
    """One request's fields; each reader refuses what Stripe would refuse, naming the field."""

    def __init__(self, fields: Object, known: Collection[str]) -> None:
        """Take the fields of a request that may hold `known` ones."""
        for name in fields:
            if name not in known:
                raise Refused(
                    400, f"Received unknown parameter: {name[:100]}", "parameter_unknown", name[:100]
                )
        # An empty field is Stripe's way of saying "not set".
        self._fields = {name: value for name, value in fields.items() if value != ""}

    def text(self, name: str) -> str | None:
        """Give a field as text."""
        value = self._fields.get(name)
        if value is not None and not isinstance(value, str):
            self._invalid(name, "string")
        return value

    def needed(self, name: str) -> str:
        """Give a field as text that has to be there."""
        value = self.text(name)
        if value is None:
            raise Refused(400, f"Missing required param: {name}.", "parameter_missing", name)
        return value

    def integer(self, name: str, least: int, most: int) -> int | None:
        """Give a whole number within its bounds."""
        text = self.text(name)
        if text is None:
            return None
        # The length guards int() against a thousand digits.
        if not re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII):
            self._invalid(name, "integer")
        if not least <= int(text) <= most:
            code = "parameter_invalid_integer"
            raise Refused(400, f"Invalid {name}: must be from {least} to {most}.", code, name)
        return int(text)

    def flag(self, name: str) -> bool | None:
        """Give a boolean."""
        text = self.text(name)
        if text is None:
            return None
        if text not in _TRUTHS:
            self._invalid(name, "boolean")
        return _TRUTHS[text]

    def texts(self, name: str) -> list[str]:
        """Give a list of texts."""
        items = self.tree(name).values()
        if not all(isinstance(item, str) for item in items):
            self._invalid(name, "array")
        return list(items)

    def tree(self, name: str) -> Object:
        """Give a nested object."""
        value = self._fields.get(name, {})
        if not isinstance(value, dict):
            self._invalid(name, "object")
        return value

    def metadata(self) -> dict[str, str]:
        """Give the caller's own data, within Stripe's limits."""
        metadata = self.tree("metadata")
        if len(metadata) > 50:
            raise Refused(400, "Metadata may have up to 50 keys.", param="metadata")
        for key, value in metadata.items():
            if not isinstance(value, str) or len(key) > 40 or len(value) > 500:
                raise Refused(
                    400,
                    "Metadata keys have up to 40 characters, values up to 500.",
                    param=f"metadata[{key[:40]}]",
                )
        return {key: value for key, value in metadata.items() if value != ""}

    def _invalid(self, name: str, kind: str) -> NoReturn:
        raise Refused(400, f"Invalid {kind}: {name}", f"parameter_invalid_{kind}", name)
