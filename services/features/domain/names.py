"""Names in definitions, and what is wrong with a definition. Pure."""

import re

NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]{0,63}$")


class DefinitionError(ValueError):
    """A definition is wrong; `pointer` names the member, relative to the document."""

    def __init__(self, pointer: str, reason: str) -> None:
        super().__init__(f"{pointer}: {reason}")
        self.pointer, self.reason = pointer, reason
