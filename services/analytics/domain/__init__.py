"""Pure logic of analytics: takes values, returns values, knows no driver."""
