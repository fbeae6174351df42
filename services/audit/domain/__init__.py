"""The pure parts of the service: accepted events, cursors, rules, policies, reports. No I/O."""
