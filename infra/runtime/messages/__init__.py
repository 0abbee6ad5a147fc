"""Messages at rest and on the wire: envelope, strict JSON, identity, versions, and personal values under seal."""
