"""What happened in the last day, in steps of ten minutes (qmail-metrics(8), the status page)."""

from collections import Counter
from dataclasses import dataclass, field

STEP_S, STEPS = 600, 144


@dataclass(slots=True)
class History:
    """Counts by name for each step that had something, by the second in which the step began."""

    steps: dict[int, Counter[str]] = field(default_factory=dict)

    def add(self, when: float | None, name: str) -> None:
        """``name`` happened at ``when``; logs are read one after the other, so that it may be of any step."""
        if when is None:
            return
        begin = int(when // STEP_S) * STEP_S
        if begin not in self.steps and len(self.steps) >= STEPS:
            oldest = min(self.steps)
            if begin < oldest:
                return
            del self.steps[oldest]
        self.steps.setdefault(begin, Counter())[name] += 1
