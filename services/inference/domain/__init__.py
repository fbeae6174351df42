"""Pure scoring, explanation, lifecycle and batching logic: no framework, no driver."""
