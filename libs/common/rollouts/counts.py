"""What was observed, as integers that add up: over replicas, over restarts, in any order.

A rollout is cut into segments: a new one starts with each step, and within a step whenever one has
met its fill of candidate observations. Each segment is a test of its own, so that a candidate that
turns bad late is not shielded by its good past.

Fields of a segment (`c` is the candidate, `s` stable):
    seen.c seen.s        observations that count at all
    error.c error.s      failures, at most one per subject
    slow.c slow.s        answers over the frozen percentile, at most one per subject
    wrong.c wrong.s      decisions that a later label contradicts, at most one per subject
    band.<k>.c band.<k>.s  scores by band, one per subject
    label.c label.s      labels that arrived
    pair flip            answers of both versions to one request, and differing decisions
    pair_error           the candidate alone failed
    pair_slow.c pair_slow.s  exactly one of the two was slow
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

# Candidate observations of one segment. A share of 1/(j(j+1)) of the budget goes to segment j, so
# small segments would waste it; large ones react late to a change.
SEGMENT_OBSERVATIONS = 5_000


@dataclass(slots=True)
class Segment:
    """Counts of one segment.

    Attributes:
        number: 1, 2, ... over the whole rollout.
        stage: the step it belongs to, from 0.
    """

    number: int
    stage: int
    fields: Counter[str] = field(default_factory=Counter)

    def get(self, name: str) -> int:
        """Give one count, 0 when nothing was counted."""
        return self.fields[name]

    @property
    def candidates(self) -> int:
        """Candidate observations: its answers, or the pairs where it only shadows."""
        return max(self.fields["seen.c"], self.fields["pair"] + self.fields["pair_error"])


class Counts:
    """All segments of one rollout; the wire form is `{"<number>/<stage>/<field>": count}`."""

    def __init__(self) -> None:
        self.segments: dict[int, Segment] = {}

    @classmethod
    def of(cls, wire: Mapping[str, int]) -> "Counts":
        """Read the wire form; a key that is none is ignored."""
        counts = cls()
        counts.add(wire)
        return counts

    def add(self, wire: Mapping[str, int]) -> None:
        """Add increments in wire form."""
        for key, amount in wire.items():
            number, _, rest = key.partition("/")
            stage, _, name = rest.partition("/")
            if name and number.isdigit() and stage.isdigit():
                self.segment(int(number), int(stage)).fields[name] += amount

    def segment(self, number: int, stage: int) -> Segment:
        """Give a segment, opening it."""
        found = self.segments.get(number)
        if found is None:
            found = self.segments[number] = Segment(number, stage)
        return found

    def wire(self) -> dict[str, int]:
        """Give all counts in wire form."""
        return {
            f"{segment.number}/{segment.stage}/{name}": amount
            for segment in self.ordered()
            for name, amount in segment.fields.items()
        }

    def ordered(self) -> list[Segment]:
        """Give the segments, oldest first."""
        return [self.segments[number] for number in sorted(self.segments)]

    def current(self, stage: int) -> int:
        """Give the number of the segment that new observations of a step belong to."""
        if not self.segments:
            return 1
        last = self.segments[max(self.segments)]
        is_full = last.candidates >= SEGMENT_OBSERVATIONS
        return last.number + 1 if last.stage < stage or is_full else last.number

    def candidates(self, stage: int) -> int:
        """Count the candidate observations of one step."""
        return sum(s.candidates for s in self.segments.values() if s.stage == stage)
