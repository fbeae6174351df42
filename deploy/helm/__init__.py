"""The chart, its examples, and the command that renders them."""
