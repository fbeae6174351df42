"""Pure logic of guardrails: detection, decision, edits. No transport, no store, no clock."""
