"""The OpenAPI 3.1 document of the REST Hooks producer: a plain value, served at /openapi.json."""

from typing import Any

_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
_PROBLEM = {
    "description": "What is wrong, in one sentence.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_SUBSCRIPTION = {"schema": {"$ref": "#/components/schemas/Subscription"}}
_EVENT = {"schema": {"$ref": "#/components/schemas/Event"}}


def _one(description: str, media: str = "application/json", content: dict[str, Any] = _SUBSCRIPTION) -> dict[str, Any]:
    return {"description": description, "content": {media: content}}


DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "labkit REST Hooks",
        "version": "1",
        "description": "Subscribe with one call, get each event as a signed POST (Standard Webhooks 1.0).",
    },
    "paths": {
        "/subscriptions": {
            "post": {
                "operationId": "subscribe",
                "summary": "Subscribe a target; it has to echo the X-Hook-Secret header of a handshake POST first.",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Wish"}}},
                },
                "responses": {
                    "201": {
                        **_one("Subscribed."),
                        "headers": {"Location": {"required": True, "schema": {"type": "string"}}},
                    },
                    "200": _one("Subscribed as before, with a new secret: the target had one to this event."),
                    "422": _PROBLEM,
                },
                "callbacks": {
                    "event": {
                        "{$request.body#/target_url}": {
                            "post": {
                                "summary": "One event; 410 ends the subscription.",
                                "requestBody": {"content": {"application/cloudevents+json": _EVENT}},
                                "responses": {"2XX": {"description": "Taken."}, "410": {"description": "Unsubscribe."}},
                            }
                        }
                    }
                },
            },
            "get": {
                "operationId": "listSubscriptions",
                "summary": "All subscriptions.",
                "responses": {
                    "200": _one("A list.", content={"schema": {"type": "array", "items": _SUBSCRIPTION["schema"]}})
                },
            },
        },
        "/subscriptions/{id}": {
            "parameters": [_ID],
            "get": {
                "operationId": "readSubscription",
                "summary": "One subscription.",
                "responses": {"200": _one("The subscription."), "404": _PROBLEM},
            },
            "delete": {
                "operationId": "unsubscribe",
                "summary": "End a subscription.",
                "responses": {"204": {"description": "Ended."}, "404": _PROBLEM},
            },
        },
        "/events": {
            "get": {
                "operationId": "reconcile",
                "summary": "The events after a cursor, one a line: what a consumer may have missed.",
                "parameters": [
                    {"name": "after", "in": "query", "schema": {"type": "string", "pattern": "^[0-9]{8}$"}},
                    {"name": "topic", "in": "query", "schema": {"type": "string"}},
                ],
                "responses": {
                    "200": _one("Events, oldest first.", "application/x-ndjson", {"schema": {"type": "string"}}),
                    "410": {"description": "The cursor is evicted or unknown; the body says which events are kept."},
                },
            }
        },
        "/events/{id}": {
            "parameters": [_ID],
            "get": {
                "operationId": "redeem",
                "summary": "One event: what a thin payload stands for.",
                "responses": {"200": _one("The event.", "application/cloudevents+json", _EVENT), "404": _PROBLEM},
            },
        },
    },
    "components": {
        "schemas": {
            "Wish": {
                "type": "object",
                "required": ["target_url"],
                "properties": {
                    "target_url": {"type": "string", "format": "uri", "description": "On this machine's loopback."},
                    "event": {"type": "string", "default": "*", "description": "A topic, or * for all."},
                    "payload": {"enum": ["full", "thin"], "default": "full"},
                },
            },
            "Subscription": {
                "type": "object",
                "required": ["id", "target_url", "event", "payload"],
                "properties": {
                    "id": {"type": "string"},
                    "target_url": {"type": "string", "format": "uri"},
                    "event": {"type": "string"},
                    "payload": {"enum": ["full", "thin"]},
                },
            },
            "Event": {
                "type": "object",
                "description": "A CloudEvents 1.0 event.",
                "required": ["specversion", "id", "source", "type"],
                "properties": {name: {"type": "string"} for name in ("specversion", "id", "source", "type", "time")},
            },
            "Problem": {"type": "object", "required": ["detail"], "properties": {"detail": {"type": "string"}}},
        }
    },
}
