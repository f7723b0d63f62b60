"""Who the sender is, and the small talk of the client."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cocktail_hub.testing.card import problems_in
from cocktail_hub.testing.commits import timestamp
from cocktail_hub.testing.reply import Reply, json_reply

if TYPE_CHECKING:
    from cocktail_hub.testing.call import Call


def whoami(call: Call) -> Reply:
    """GET whoami-v2: the owner of the token."""
    user = call.known_user()
    return json_reply(
        {
            "type": "user",
            "id": hashlib.sha256(user.name.encode()).hexdigest()[:24],
            "name": user.name,
            "fullname": user.name,
            "email": f"{user.name}@example.invalid",
            "isPro": False,
            "orgs": [{"type": "org", "name": org, "roleInOrg": "write"} for org in user.orgs],
            "auth": {
                "type": "access_token",
                "accessToken": {"displayName": "loopback", "role": user.role, "createdAt": timestamp()},
            },
        }
    )


def agent_harnesses(_: Call) -> Reply:
    """GET agent-harnesses: asked once a day for the user agent string."""
    return json_reply({"standardEnvVars": [], "harnesses": {}})


def telemetry(_: Call) -> Reply:
    """HEAD telemetry/...: heard, and forgotten."""
    return Reply()


def validate_yaml(call: Call) -> Reply:
    """POST validate-yaml: is this README's metadata acceptable?"""
    errors, warnings = problems_in(call.json().get("content", ""))
    value = {
        name: [{"message": text} for text in texts] for name, texts in (("errors", errors), ("warnings", warnings))
    }
    return json_reply(value, status=400 if errors else 200)
